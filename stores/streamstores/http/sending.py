"""Sending a body of server-sent events for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Send

from streamstores.http.sse import sse_event

__all__ = ["event_stream_headers", "send_events"]

_PING = sse_event("ping")
_LAST_SECONDS = 2.0  # for a client to take the end of a body that was cut

_log = logging.getLogger("streamstores.http")


def event_stream_headers(ping_interval: float) -> list[tuple[bytes, bytes]]:
    """The headers of a body of events, which no proxy may keep, change or hold back."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
        (b"x-stream-ping", b"%g" % ping_interval),
    ]


async def send_events(
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]],
    bodies: AsyncGenerator[bytes, None],
    *,
    ping_interval: float,
    closing: asyncio.Event,
) -> None:
    """Answer 200 with `bodies`, and an event `ping` after each `ping_interval` seconds of
    silence, until they end, the client leaves, or `closing` is set.

    The server's back-pressure is passed on: while a client does not read, the next body is
    not asked for. A body that `closing` or an error cut, which is logged, ends cleanly.
    """
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    line = _Line(send, ping_interval)
    pump = asyncio.ensure_future(line.pump(bodies))
    leaving = asyncio.ensure_future(_until_disconnected(receive))
    closed = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({pump, leaving, closed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        has_left = leaving.done()
        await _cancel(pump, leaving, closed)
        await line.close()
        await bodies.aclose()
    if not _was_completed(pump) and not has_left:
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(line.end(), _LAST_SECONDS)


def _was_completed(pump: asyncio.Future[None]) -> bool:
    if pump.cancelled():
        return False
    exc = pump.exception()
    if exc is not None and not isinstance(exc, OSError):  # else the client has left
        _log.error("a response was cut", exc_info=exc)
    return exc is None


class _Line:
    """The one who sends, whether a body or a ping."""

    def __init__(self, send: Send, ping_interval: float) -> None:
        self._send = send
        self._ping_interval = ping_interval
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._has_ended = False
        self._pinging: asyncio.Future[None] | None = None
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(ping_interval, self._look)

    async def pump(self, bodies: AsyncGenerator[bytes, None]) -> None:
        async for body in bodies:
            await self.send(body)
            await asyncio.sleep(0)  # a send to a client that has left does not suspend
        await self.end()

    async def send(self, body: bytes) -> None:
        async with self._turn:
            if self._has_ended:
                return
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sent_at = self._loop.time()

    async def end(self) -> None:
        async with self._turn:
            self._has_ended = True  # a ping that waits for its turn must not follow
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def close(self) -> None:
        if self._pinging is not None:
            await _cancel(self._pinging)
        self._timer.cancel()

    def _look(self) -> None:
        """Ping where it is time; one timer however much is sent."""
        left = self._sent_at + self._ping_interval - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._pinging = asyncio.ensure_future(self._ping())

    async def _ping(self) -> None:
        with suppress(OSError):  # the client has left, which another task learns too
            await self.send(_PING)
        self._timer = self._loop.call_later(self._ping_interval, self._look)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
