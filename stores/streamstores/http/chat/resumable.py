"""Answers that are kept: any process can start, send, stop and continue them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from streamstores import logs
from streamstores.errors import (
    OffsetOutOfRange,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.http._asgi.bounded_reader import BoundedReader
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.event_stream import EventStream, event_stream_headers
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.handler import StreamHandler
from streamstores.http._asgi.requests import check_id, query_of
from streamstores.http._asgi.reserved import MODEL_ATTRIBUTE, SAVED_REQUEST_PREFIX
from streamstores.http.chat import saved_request
from streamstores.http.chat.models import StreamRequest, can_continue, records_from
from streamstores.http.chat.records import begins_inside, sse_event, sse_of
from streamstores.http.chat.request import ChatRequests, start_offset, wants_json_text
from streamstores.http.chat.script import send_script
from streamstores.http.resumable.served_streams import ServedStreams
from streamstores.runs import Runs, Source, TooManyRuns
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["ResumableChat"]

_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")

_log = logging.getLogger("streamstores.http")


class ResumableChat:
    """The endpoints that `docs/wire.md` describes, on a store."""

    def __init__(
        self,
        requests: ChatRequests,
        store: StreamStore,
        *,
        ttl: float | None,
        heartbeat: float,
        responses: EventStream,
        pause_for: float,
        cancel_on_disconnect: bool,
        max_runs: int,
        describe_error: Callable[[Exception], str],
        owns_store: bool,
        watch_signals: bool,
    ) -> None:
        self._requests = requests
        self._store = store
        self._ttl = ttl
        self._cancel_on_disconnect = cancel_on_disconnect
        self._owns_store = owns_store
        self._watch_signals = watch_signals
        self._runs = Runs(
            store,
            revive=self._revive,
            heartbeat=heartbeat,
            pause_for=pause_for,
            max_runs=max_runs,
            describe_error=describe_error,
        )
        self._streams = ServedStreams(self._runs, responses)
        self._encoders = (_SharedEncoder(text_as_json=False), _SharedEncoder(text_as_json=True))
        self._stops: set[asyncio.Future[Any]] = set()

    def handler(self) -> StreamHandler:
        """The ASGI application with these endpoints."""
        routes = {
            "/stream": {"POST": self._start},
            "/stream/resume": {"GET": self._resume, "POST": self._continue},
            "/stream/stop": {"POST": self._stop},
            "/stream/status": {"GET": self._status},
            "/stream.js": {"GET": send_script},
        }
        return StreamHandler(
            routes,
            self._close,
            store=self._store,
            activity=self._streams.activity,
            patience=self._streams.responses.patience,
            watch_signals=self._watch_signals,
        )

    async def _start(self, exchange: Exchange) -> None:
        """Start a stream and send it. If it exists already, send it from its start instead."""
        fields = await self._requests.read_fields(exchange)
        request = self._requests.stream_request(fields, exchange, self._store.limits)
        stream_id = self._own(request.id)
        is_named = fields.get("id") is not None
        # Both are asked in any case, or the response would tell whether the stream exists.
        await self._requests.check(exchange, stream_id, "start", *["follow"] * is_named)
        self._streams.check_open()
        digest = saved_request.digest_attribute(fields, stream_id)
        try:
            info = await self._begin(request, digest)
        except StreamExists as exc:
            info = exc.info
            saved_request.check_same_request(info, digest)
            await saved_request.touch_both(self._store, info)
        except TooManyRuns:
            # A process without room for another model still serves answers that exist.
            if not is_named:
                raise
            info = await self._existing(stream_id, digest)
        await self._send(exchange, info, 0)

    async def _resume(self, exchange: Exchange) -> None:
        query = query_of(exchange)
        mode = query.get("mode")
        if mode not in (None, "follow"):
            raise HttpError(400, "invalid_mode", "the only mode is follow")
        action = "continue" if mode is None else "follow"
        await self._go_on(exchange, query.get("id"), query.get("after"), action)

    async def _continue(self, exchange: Exchange) -> None:
        fields = await self._requests.read_fields(exchange)
        await self._go_on(exchange, fields.get("id"), fields.get("after"), "continue")

    async def _go_on(self, exchange: Exchange, stream_id: Any, after: Any, action: str) -> None:
        stream_id = self._own(stream_id)
        offset = start_offset(after, exchange)
        await self._requests.check(exchange, stream_id, action)
        self._streams.check_open()
        info = await self._look(stream_id)
        # Before the resume: a request that is refused must not make the model go on.
        if offset > info.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=info.tail)
        if action == "continue" and info.state is State.STOPPED:
            info = await self._runs.resume(stream_id)
        await self._send(exchange, info, offset)

    async def _stop(self, exchange: Exchange) -> None:
        fields = await self._requests.read_fields(exchange)
        stream_id = self._own(fields.get("id"))
        await self._requests.check(exchange, stream_id, "stop")
        self._streams.check_open()
        await self._answer_status(exchange, await self._runs.stop(stream_id))

    async def _status(self, exchange: Exchange) -> None:
        stream_id = self._own(query_of(exchange).get("id"))
        await self._requests.check(exchange, stream_id, "status")
        self._streams.check_open()
        await self._answer_status(exchange, await self._store.info(stream_id))

    def _own(self, stream_id: Any) -> str:
        """The stream id, checked to be one that clients may use."""
        checked = check_id(stream_id, self._store.limits)
        if checked.startswith(SAVED_REQUEST_PREFIX):
            raise HttpError(400, "invalid_id", f"ids below {SAVED_REQUEST_PREFIX} are reserved")
        return checked

    async def _begin(self, request: StreamRequest, digest: dict[str, str]) -> StreamInfo:
        """Start the model's run. The request is saved first, so that a crash right after the
        start can be continued; it is forgotten again if there is no start."""
        model = self._requests.models[request.model]
        attributes = {MODEL_ATTRIBUTE: request.model, **digest}
        if can_continue(model):
            attributes |= await saved_request.keep_request(self._store, request, self._ttl)
        records = records_from(model, request, self._store.limits.record_bytes)
        try:
            return await self._runs.start(
                request.id, records, ttl=self._ttl, attributes=attributes
            )
        # Not after `OutcomeUnknown`: the stream may exist, and then needs its request.
        except (StreamExists, StoreUnavailable, TooManyRuns):
            await saved_request.forget_request(self._store, attributes)
            raise

    async def _existing(self, stream_id: str, digest: dict[str, str]) -> StreamInfo:
        """The stream, if it exists. Else raise `TooManyRuns`: there is no room to start it."""
        try:
            info = await self._store.info(stream_id)
        except StreamNotFound:
            raise TooManyRuns("this process produces as many streams as it may") from None
        saved_request.check_same_request(info, digest)
        await saved_request.touch_both(self._store, info)
        return info

    async def _look(self, stream_id: str) -> StreamInfo:
        info = await self._store.info(stream_id)
        await saved_request.touch_both(self._store, info)
        return info

    def _revive(self, info: StreamInfo) -> Source | None:
        """The continuation by the stream's model, if that is marked `@continues`."""
        model = self._requests.models.get(info.attributes.get(MODEL_ATTRIBUTE, ""))
        if model is None or not can_continue(model) or not saved_request.has_request(info):
            return None
        return saved_request.continued(self._store, info, model)

    async def _send(self, exchange: Exchange, info: StreamInfo, offset: int) -> None:
        """Answer with the stream as events, from `offset` to its end."""
        # Before the first `await`, or `cancel_on_disconnect` might stop the stream when the
        # reader before this one leaves.
        reader = self._streams.open_reader(info, offset)
        has_left = False
        try:
            bodies = self._streams.bodies(
                reader,
                self._encoders[wants_json_text(exchange)].encode,
                _ending,
                opening=sse_event("stream-id", info.id),
                # Before the headers are sent: a refusal needs a status of its own.
                batch=await self._first_batch(reader, info, offset),
            )
            has_left = await self._streams.responses.send(
                exchange, self._headers(info.id), bodies
            )
        finally:
            if await self._streams.close_reader(reader):
                self._stop_if_unwanted(info.id, has_left=has_left)

    def _headers(self, stream_id: str) -> list[tuple[bytes, bytes]]:
        headers = event_stream_headers(self._streams.responses.ping_interval)
        headers.append((b"x-stream-id", quote(stream_id, safe=_PRINTABLE).encode()))
        return headers

    async def _first_batch(
        self, reader: BoundedReader, info: StreamInfo, offset: int
    ) -> list[Record]:
        """The records that exist. Refuses an offset inside a character or a named event."""
        if not offset < info.tail:
            return []
        batch = await reader.batch()
        if offset and begins_inside(batch[0].data):
            raise HttpError(400, "invalid_after", "after is inside a character or an event")
        return batch

    def _stop_if_unwanted(self, stream_id: str, *, has_left: bool) -> None:
        """Stop a model that has no reader any more, if the settings say so.

        Only if the last client has left. A response also ends when the handler or the server
        does, or when the store fails, and then the client comes back for the rest.
        """
        stops = self._cancel_on_disconnect and has_left and not self._streams.is_closing
        if stops and self._runs.is_running(stream_id):
            stop = asyncio.ensure_future(self._stop_unread(stream_id))
            # The event loop itself holds its tasks by weak references only.
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)

    async def _stop_unread(self, stream_id: str) -> None:
        with suppress(StreamNotFound):
            try:
                await self._runs.stop(stream_id)
            except StreamStoreError as exc:
                _log.warning(
                    "stream %s has no readers but runs on: %s",
                    logs.label(stream_id),
                    logs.reason(exc),
                    extra=logs.event("chat.not_stopped", stream_id),
                )

    async def _answer_status(self, exchange: Exchange, info: StreamInfo) -> None:
        status = {
            "id": info.id,
            "state": str(info.state),
            "tail": info.tail,
            "error": info.error,
            "model": info.attributes.get(MODEL_ATTRIBUTE),
            "createdAt": _iso(info.created_at),
            "expiresAt": _iso(info.expires_at),
        }
        await exchange.answer(JSONResponse(status, headers={"Cache-Control": "no-store"}))

    async def _close(self) -> None:
        await self._streams.hand_over()
        if self._stops:
            await asyncio.wait(set(self._stops))
        if self._owns_store:
            await self._store.aclose()


class _SharedEncoder:
    """Encodes a record once for all clients: the followers of a stream in one process are woken
    one after another, with the same record."""

    def __init__(self, *, text_as_json: bool) -> None:
        self._text_as_json = text_as_json
        self._last: Record | None = None
        self._encoded = b""

    def encode(self, part: list[Record]) -> bytes:
        if len(part) > 1:
            return sse_of(part, text_as_json=self._text_as_json)
        # By identity: comparing the data would cost about as much as encoding it again.
        if self._last is not part[0]:
            self._last = part[0]
            self._encoded = sse_of(part, text_as_json=self._text_as_json)
        return self._encoded


def _ending(info: StreamInfo) -> bytes:
    done = sse_event("done")
    if info.state is State.STOPPED:
        return sse_event("stopped") + done
    if info.state is State.ERROR:
        return sse_event("error", info.error or "The stream failed.") + done
    return done


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
