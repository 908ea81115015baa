"""How long a response waits for a client that takes nothing, and what happens then.

A client that stops reading fills the kernel's buffers, then the server's, and then the
server's `send` waits. Nothing else ends that wait: the connection is intact, and a server that
is told to end waits for it too. So each wait is watched, and the connection dropped when it
has lasted too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope, Send

from streamstores import logs
from streamstores.errors import InvalidRequest
from streamstores.http._asgi.connections import Connection, unsent_bytes
from streamstores.http._asgi.gate import Gate

__all__ = ["BoundedSend", "ClientPatience", "SendWatch", "drop"]

LAST_SECONDS = 2.0
"""How long a client may take nothing once the handler closes."""

_CHECK_SECONDS = 1.0
_BUFFERED_BYTES = 65_536  # a response of this size fits into the buffers of the two kernels

_log = logging.getLogger("streamstores.http")


class ClientPatience:
    """The bounds for one handler: `send_timeout` seconds, or less once its gate has closed."""

    def __init__(self, send_timeout: float, gate: Gate) -> None:
        if not send_timeout > 0:
            raise InvalidRequest(f"send_timeout must be above 0 seconds, not {send_timeout!r}")
        self.gate = gate
        self._send_timeout = send_timeout
        self._waits: set[SendWatch] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # that the timer runs in

    @property
    def seconds(self) -> float:
        """How long a client may take nothing, as things are now."""
        if self.gate.is_closed:
            return min(self._send_timeout, LAST_SECONDS)
        return self._send_timeout

    def is_over(self, since: float) -> bool:
        """Whether a client has taken nothing for too long, if it has since this time."""
        return asyncio.get_running_loop().time() - since >= self.seconds

    def next_check(self) -> float:
        """Seconds until it is worth asking again."""
        return min(self.seconds, _CHECK_SECONDS)

    def begin(self, wait: SendWatch) -> float:
        """Watch a wait, and return the time. One timer watches all waits, and only while there
        are any: a timer for each would cost as much as a small response."""
        loop = asyncio.get_running_loop()
        self._waits.add(wait)
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(self.next_check(), self._check)
        return loop.time()

    def end(self, wait: SendWatch) -> None:
        self._waits.discard(wait)

    def _check(self) -> None:
        for wait in list(self._waits):
            if self.is_over(wait.since):
                self._waits.discard(wait)
                wait.give_up()
        loop = self._loop
        if self._waits and loop is not None:
            loop.call_later(self.next_check(), self._check)
        else:
            self._loop = None

    async def until_taken(self, scope: Scope, size: int) -> None:
        """Wait until the client has taken a complete response of `size` bytes, or drop it.

        The server has the response in its buffers now, and would keep it, and itself from
        ending, for as long as the client is connected.
        """
        connection = Connection.of(scope) if size > _BUFFERED_BYTES else None
        descriptor = connection and connection.find()
        if connection is None or descriptor is None:
            return
        clock = asyncio.get_running_loop().time
        before, since, pause = -1, clock(), 0.02
        # The server may close the connection at any time, and the descriptor then be another's.
        while (unsent := unsent_bytes(descriptor)) and connection.is_at(descriptor):
            # Any progress counts, not a rate: a phone on a bad network is slow and welcome.
            if unsent != before:
                before, since = unsent, clock()
            elif self.is_over(since):
                drop(scope)
                return
            await asyncio.sleep(min(pause, self.next_check()))
            pause = min(2 * pause, _CHECK_SECONDS)


def drop(scope: Scope) -> None:
    """Break the connection of a request whose client takes nothing."""
    connection = Connection.of(scope)
    was_found = connection is not None and connection.drop()
    done = "was dropped" if was_found else "cannot be dropped, its connection was not found"
    _log.info(
        "a client that takes nothing %s: %s",
        done,
        scope.get("client"),
        extra=logs.event("http.client_dropped"),
    )


class BoundedSend:
    """The server's `send` for a response that is no event stream, with a bound on each wait."""

    def __init__(self, scope: Scope, send: Send, patience: ClientPatience) -> None:
        self.unbounded = send
        self._scope = scope
        self._patience = patience
        self._size = 0

    async def __call__(self, message: Message) -> None:
        size = len(message.get("body", b""))
        self._size += size
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if is_last and size > _BUFFERED_BYTES:
            # In two steps, because uvicorn waits for the client before a body, not after it.
            await self._send({**message, "more_body": True})
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)
        if is_last:
            await self._patience.until_taken(self._scope, self._size)

    async def _send(self, message: Message) -> None:
        watch = SendWatch(self._patience, self._drop)
        try:
            await self.unbounded(message)
        finally:
            watch.stop()

    def _drop(self) -> None:
        drop(self._scope)


class SendWatch:
    """One wait for a client, from now until `stop`; `give_up` is called if it is too long."""

    __slots__ = ("_patience", "give_up", "since")

    def __init__(self, patience: ClientPatience, give_up: Callable[[], Any]) -> None:
        self.give_up: Callable[[], Any] = give_up
        self._patience = patience
        self.since: float = patience.begin(self)

    def stop(self) -> None:
        self._patience.end(self)
