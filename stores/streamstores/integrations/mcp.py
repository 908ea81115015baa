"""An event store for servers of the Model Context Protocol, on any store of ours.

Written against `mcp` 1.29 and 2.3, whose interface is in `mcp/server/streamable_http.py` of
https://github.com/modelcontextprotocol/python-sdk. It needs the extra `mcp`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from streamstores import logs
from streamstores.errors import (
    Conflict,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.limits import check_seconds, check_stream_id
from streamstores.store import State, StreamInfo, StreamStore

try:
    from mcp import types
    from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from streamstores.integrations._mcp_sessions import (
        PRIMING,
        McpRequest,
        McpSession,
        SessionStream,
    )
except ModuleNotFoundError as _missing_module:  # pragma: no cover
    raise ImportError(
        f"streamstores.integrations.mcp needs {_missing_module.name}: "
        'pip install "streamstores[mcp]"',
        name=_missing_module.name,
    ) from _missing_module

__all__ = ["MCPEventStore"]

_SESSION_HEADER = "mcp-session-id"
_STREAM = "mcp_stream"
_EVENT_ID = re.compile(r"([0-9a-f]{24})-([1-9][0-9]{0,14})")

_RETRY_SECONDS = 5.0
"""For how long an event is tried to be stored. The session's other events wait meanwhile."""

_log = logging.getLogger("streamstores.integrations.mcp")


class MCPEventStore(EventStore):
    """The `event_store` of an MCP server, with which its clients resume.

        events = MCPEventStore(store)
        app = events.middleware(server.streamable_http_app(event_store=events))

    The SDK names the streams of a session by the numbers of its requests, which every session
    has alike, and does not tell an event store which session calls. The middleware does. Each
    session has streams of its own, whose names cannot be made from another session's id: an
    event id that was guessed, or that belongs to another session, is as unknown as any.

    Events are stored before they are sent: one append for each, and the SDK stores those of a
    session one after another. The response to a request closes its stream. A stream expires
    `ttl` seconds after its last event. If an event cannot be stored for five seconds, a new
    request is refused, and a request that runs is answered but can no longer be resumed.

    Ids begin with `prefix` in the store, and hold a digest of the session's id. One object
    belongs to one event loop; the store stays the caller's to close.
    """

    def __init__(
        self, store: StreamStore, *, ttl: float = 86_400.0, prefix: str = "mcp/"
    ) -> None:
        check_seconds(ttl, "ttl")
        check_stream_id(f"{prefix}{'0' * 32}/{'0' * 24}", store.limits)
        self._store = store
        self._ttl = ttl
        self._prefix = prefix
        # Weak: a session lives in the contexts of its tasks, and the SDK ends these with it.
        self._sessions: WeakValueDictionary[str, McpSession] = WeakValueDictionary()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose requests tell this object which session they belong to.

        Also `app.add_middleware(events.middleware)`.
        """

        async def with_session(scope: Scope, receive: Receive, send: Send) -> None:
            """Serve a request of `app`; all tasks that it starts know its session."""
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            request = McpRequest(self, self._session_of(scope), scope)

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await self._bind(request.session, Headers(raw=message["headers"]))
                await send(message)
                request.has_sent(message.get("body", b""))

            token = _current.set(request)
            try:
                await app(scope, receive, watched)
            finally:
                _current.reset(token)
                request.release()

        return with_session

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Store a message, or with None a priming event; returns the event's id.

        Raises the store's errors for a priming event only: the SDK then answers the request
        with 500, before anything happens. Raised for a message they would end the session.
        Raises `RuntimeError` without the middleware.
        """
        request = self._request()
        session = request.session
        if message is None and request.end_id is not None:
            return request.end_id
        is_new_request = message is None and request.method == "POST"
        stream = None if is_new_request else session.streams.get(stream_id)
        if stream is None:
            stream = session.streams[stream_id] = SessionStream(stream_id)
        if request.is_holding(stream):
            request.begin_priming()
            event_id = await self._add(session, stream, message)
            request.end_priming(event_id)
            return event_id
        async with stream.lock:
            return await self._add(session, stream, message)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send the messages of its stream that came after this event of this session.

        Returns the stream's id; None if there is no such event, or if it is the last of a
        stream that has ended. After the last message that is sent here the stream takes none
        until the SDK sends new messages itself.
        """
        request = self._request()
        session = request.session
        event = _EVENT_ID.fullmatch(last_event_id)
        if event is None or session.key is None:
            return None
        token, start = event[1], int(event[2])
        if token in session.broken:
            return None
        stream = session.find(token)
        try:
            info, end = await self._replay(session.key, token, start, send_callback)
            if stream is not None:
                await request.hold(stream)
                info, end = await self._replay(session.key, token, end, send_callback)
        except (StreamNotFound, OffsetOutOfRange):
            info, end = None, start
        if info is None or token in session.broken:
            request.release()
            return None
        if info.state is State.STREAMING:
            request.release_soon()
        else:
            request.release()
            request.end_id = f"{token}-{end}"
            if end == start:
                return None
        return info.attributes.get(_STREAM)

    def _request(self) -> McpRequest:
        request = _current.get(None)
        if request is None or request.events is not self:
            raise RuntimeError(
                "an MCPEventStore cannot tell the sessions of this server apart: serve "
                "`events.middleware(app)` instead of `app`"
            )
        return request

    def _session_of(self, scope: Scope) -> McpSession:
        """The session that a request names, or a new one, which is known when the server has
        answered."""
        session_id = Headers(scope=scope).get(_SESSION_HEADER)
        if session_id is None:
            return McpSession(None)
        key = _digest(session_id)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = McpSession(key)
        return session

    async def _bind(self, session: McpSession, headers: Headers) -> None:
        """Learn the id of a new session from the response, before the client does."""
        session_id = headers.get(_SESSION_HEADER)
        if session.key is not None or session_id is None:
            return
        session.key = _digest(session_id)
        self._sessions[session.key] = session
        for stream in list(session.streams.values()):
            async with stream.lock:
                await self._save(session, stream)

    async def _add(self, session: McpSession, stream: SessionStream, message: Any) -> str:
        """Accept an event, and store it if the session's id is known already."""
        stream.accept(message, self._store.limits.record_bytes)
        if session.key is not None:
            await self._save(session, stream, is_required=message is None)
        return f"{stream.token}-{stream.tail}"

    async def _save(
        self, session: McpSession, stream: SessionStream, *, is_required: bool = False
    ) -> None:
        """Store what was accepted. If that is impossible, the stream cannot be resumed any
        more; then raise the store's error if `is_required`."""
        try:
            if not stream.is_broken:
                await self._save_patiently(session, stream)
        except StreamStoreError as exc:
            stream.is_broken = True
            session.broken.add(stream.token)
            if is_required:
                raise
            _log.warning(
                "an MCP stream can no longer be resumed: %s",
                logs.reason(exc),
                extra=logs.event("mcp.not_saved"),
            )
        if stream.is_broken:
            stream.unsaved.clear()
        if stream.is_done:
            session.forget(stream)

    async def _save_patiently(self, session: McpSession, stream: SessionStream) -> None:
        """Store what was accepted, in `_RETRY_SECONDS`. Raises the store's errors."""
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + _RETRY_SECONDS, 0.05
        while stream.unsaved:
            try:
                await self._save_part(session, stream)
            except StreamNotFound:
                # It has expired: an event every `ttl` seconds keeps a stream. The events that
                # it had are gone, and the new ones get ids of their own.
                stream.begin_anew()
            except (StoreUnavailable, OutcomeUnknown):
                if clock() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)

    async def _save_part(self, session: McpSession, stream: SessionStream) -> None:
        """Append as much as one append takes. It may be repeated after `OutcomeUnknown`."""
        name = self._name(session.key, stream.token)
        limits = self._store.limits
        count = min(limits.append_bytes // limits.record_bytes, limits.append_records)
        part = stream.unsaved[:count]
        state = State.DONE if stream.is_done and len(part) == len(stream.unsaved) else None
        end = stream.saved + sum(map(len, part))
        try:
            if stream.saved:
                info = await self._store.append(name, *part, at=stream.saved, state=state)
            else:
                info = await self._store.create(
                    name,
                    *part,
                    ttl=self._ttl,
                    attributes={_STREAM: stream.mcp_id},
                    state=state or State.STREAMING,
                )
        except (StreamExists, StreamClosed, Conflict) as exc:
            if exc.info.tail != end:
                raise
            info = exc.info  # an earlier attempt has landed: no other object knows the name
        del stream.unsaved[:count]
        stream.saved = info.tail

    async def _replay(
        self, key: str, token: str, offset: int, send: EventCallback
    ) -> tuple[StreamInfo | None, int]:
        """Send the messages after `offset` that are there now. Returns the stream and the
        offset that was reached; no stream if no event ends at `offset`.

        Raises `StreamNotFound` and `OffsetOutOfRange`.
        """
        name = self._name(key, token)
        # The read begins at the last byte of the event before.
        page = await self._store.read(name, offset - 1)
        if page.records[0].data != b"\n":
            return None, offset
        records = page.records[1:]
        parts: list[bytes] = []
        while True:
            for record in records:
                parts.append(record.data)
                if record.data.endswith(b"\n"):
                    offset = record.end
                    data = b"".join(parts)
                    parts.clear()
                    if data != PRIMING:
                        await send(EventMessage(_message_of(data), f"{token}-{offset}"))
            if page.next_offset >= page.info.tail:
                return page.info, offset
            page = await self._store.read(name, page.next_offset)
            records = page.records

    def _name(self, key: str | None, token: str) -> str:
        return f"{self._prefix}{key}/{token}"


_current: ContextVar[McpRequest] = ContextVar("streamstores_mcp_request")


def _digest(session_id: str) -> str:
    # The id itself is all that a client needs to use the session, and names are listed.
    return hashlib.sha256(session_id.encode()).hexdigest()[:32]


def _message_of(line: bytes) -> Any:
    adapter: Any = getattr(types, "jsonrpc_message_adapter", None)
    if adapter is not None:
        return adapter.validate_json(line, by_name=False)  # mcp 2
    message_class: Any = types.JSONRPCMessage
    return message_class.model_validate_json(line)
