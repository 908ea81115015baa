"""The sessions of an MCP server in this process, their streams, and their HTTP requests."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

__all__ = ["PRIMING", "McpRequest", "McpSession", "SessionStream"]

PRIMING = b"null\n"
"""A priming event, as it is stored."""

_VERSION_HEADER = "mcp-protocol-version"
_FIRST_PRIMED = "2025-11-25"
"""The first version of the protocol whose clients are sent priming events."""

_HOLD_SECONDS = 5.0
"""The most that a session waits for a client that resumes but takes nothing."""


class SessionStream:
    """A stream of one session in this process.

    Its records are lines of JSON, one or more to a line. Its tasks write one at a time, under
    `lock`.
    """

    def __init__(self, mcp_id: str) -> None:
        self.mcp_id = mcp_id
        self.lock = asyncio.Lock()
        self.is_done = False
        """Whether the response to the request was accepted, which is the last event."""
        self.is_broken = False
        """Whether an event could not be stored."""
        self.unsaved: list[bytes] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Continue under a new name, with what is not saved yet."""
        self.token: str = secrets.token_hex(12)
        self.saved = 0
        self.tail: int = sum(map(len, self.unsaved))

    def accept(self, message: Any, record_bytes: int) -> None:
        line = PRIMING if message is None else _line_of(message)
        self.unsaved += [
            line[start : start + record_bytes] for start in range(0, len(line), record_bytes)
        ]
        self.tail += len(line)
        # Requests and notifications have a method, responses have none.
        body = getattr(message, "root", message)
        self.is_done = message is not None and not hasattr(body, "method")


class McpSession:
    """One session of a server in this process; `key` is None until its id is known."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.streams: dict[str, SessionStream] = {}
        """Those whose request was not answered yet, by the names that the SDK gives them."""
        self.broken: set[str] = set()
        """The tokens of streams that lack an event, so that no client takes them for whole."""

    def find(self, token: str) -> SessionStream | None:
        return next((each for each in self.streams.values() if each.token == token), None)

    def forget(self, stream: SessionStream) -> None:
        if self.streams.get(stream.mcp_id) is stream:
            del self.streams[stream.mcp_id]


class McpRequest:
    """An HTTP request. While it resumes a stream, that stream may be held."""

    def __init__(self, events: object, session: McpSession, scope: Scope) -> None:
        self.events = events
        self.session = session
        self.method: str = scope["method"]
        self._is_primed = Headers(scope=scope).get(_VERSION_HEADER, "") >= _FIRST_PRIMED
        self.end_id: str | None = None
        """The last event of the stream that was replayed, if it has ended. The SDK stores a
        priming event after a replay, of which there is no need then."""
        self._held: SessionStream | None = None
        self._is_priming = False
        self._priming_id = b""

    async def hold(self, stream: SessionStream) -> None:
        """Let the stream take no event until the SDK forwards its events to this request.

        The SDK forgets an event that is stored between the end of a replay and that moment. The
        event may be the answer, and the client would wait for it in vain.
        """
        await stream.lock.acquire()
        self._held = stream

    def is_holding(self, stream: SessionStream) -> bool:
        return self._held is stream

    def release(self) -> None:
        """Idempotent."""
        stream, self._held = self._held, None
        if stream is not None:
            stream.lock.release()

    def release_soon(self) -> None:
        """Release the stream when the SDK forwards its events to this request.

        To a client that knows priming events it stores and sends one first. To others it
        forwards before it waits for anything.
        """
        loop = asyncio.get_running_loop()
        if self._is_primed:
            loop.call_later(_HOLD_SECONDS, self._release_unprimed)
        else:
            loop.call_soon(self._release_unprimed)

    def _release_unprimed(self) -> None:
        if not self._is_priming:
            self.release()

    def begin_priming(self) -> None:
        self._is_priming = True

    def end_priming(self, event_id: str) -> None:
        """Release the stream when this event has been sent, or is not taken for too long."""
        self._priming_id = event_id.encode()
        asyncio.get_running_loop().call_later(_HOLD_SECONDS, self.release)

    def has_sent(self, body: bytes) -> None:
        if self._held is not None and self._priming_id and self._priming_id in body:
            # The SDK's task has the next turn, and then forwards to this request.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self.release)


def _line_of(message: Any) -> bytes:
    text: str = message.model_dump_json(by_alias=True, exclude_unset=True)
    return text.encode() + b"\n"
