"""Sending a body of server-sent events for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Send

from streamstores.http.sse import sse_event

__all__ = ["event_stream_headers", "send_events"]

_PING = sse_event("ping")


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
) -> bool:
    """Answer 200 with `bodies`, and an event `ping` after each `ping_interval` seconds of
    silence, until they end, the client leaves, or `closing` is set.

    The server's back-pressure is passed on: while a client does not read, the next body is
    not asked for. Returns whether all was sent. The body ends cleanly also when `closing`
    cut it. Raises what `bodies` raises, after the body was ended.
    """
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    line = _Line(send, ping_interval)
    pump = asyncio.ensure_future(line.pump(bodies))
    others = [
        asyncio.ensure_future(_until_disconnected(receive)),
        asyncio.ensure_future(closing.wait()),
    ]
    try:
        await asyncio.wait([pump, *others], return_when=asyncio.FIRST_COMPLETED)
    finally:
        has_left = others[0].done()
        is_complete = pump.done() and not has_left
        await _cancel(pump, *others)
        await line.close()
        await bodies.aclose()
    if not has_left:
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    if pump.done() and not pump.cancelled():
        error = pump.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
    return is_complete


class _Line:
    """The one who sends, whether a body or a ping."""

    def __init__(self, send: Send, ping_interval: float) -> None:
        self._send = send
        self._ping_interval = ping_interval
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._pinging: asyncio.Future[None] | None = None
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(ping_interval, self._look)

    async def pump(self, bodies: AsyncGenerator[bytes, None]) -> None:
        async for body in bodies:
            await self.send(body)

    async def send(self, body: bytes) -> None:
        async with self._turn:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sent_at = self._loop.time()

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
