"""Responses of server-sent events, which last as long as their streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Send

from streamstores._sse import encode_event
from streamstores.http._asgi.closing import Gate
from streamstores.store import Record

__all__ = ["event_stream_headers", "in_parts", "send_events"]

_PING = encode_event(b"", name=b"ping")
_TURN_BYTES = 65_536  # to one client, before others get their turn
_END_SECONDS = 2.0  # for a client to take the end of a response that was cut

_log = logging.getLogger("streamstores.http")


def event_stream_headers(ping_interval: float) -> list[tuple[bytes, bytes]]:
    """The headers of a response of events, which no proxy may cache, transform or buffer."""
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
    gate: Gate,
    status: int = 200,
    ping: bytes = _PING,
    lasts: float | None = None,
) -> None:
    """Answer with `bodies`, and a `ping` after each `ping_interval` seconds of silence.

    The response ends when `bodies` end, the client leaves, `gate` closes, or `lasts` seconds
    have passed. In the last two cases, and after an error in `bodies`, which is logged, it ends
    cleanly at the HTTP level. The server's back-pressure is passed on: while a client does not
    read, the next body is not asked for.
    """
    await send({"type": "http.response.start", "status": status, "headers": headers})
    sender = _BodySender(send, ping, ping_interval)
    pump = asyncio.ensure_future(sender.pump(bodies))
    leaving = asyncio.ensure_future(_until_disconnected(receive))
    closed = asyncio.ensure_future(gate.wait_closed())
    try:
        await asyncio.wait(
            {pump, leaving, closed}, timeout=lasts, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        has_left = leaving.done()
        await _cancel(pump, leaving, closed)
        await sender.close()
        await bodies.aclose()
    if not _was_completed(pump) and not has_left:
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(sender.end(), _END_SECONDS)


def in_parts(records: list[Record], size: int) -> Iterator[list[Record]]:
    """The records in parts of about `size` bytes.

    So no more than that is encoded ahead for a client that does not read.
    """
    if len(records) == 1:  # the usual case for live followers
        yield records
        return
    part: list[Record] = []
    left = size
    for record in records:
        part.append(record)
        left -= len(record.data)
        if left <= 0:
            yield part
            part, left = [], size
    if part:
        yield part


def _was_completed(pump: asyncio.Future[None]) -> bool:
    if pump.cancelled():
        return False
    exc = pump.exception()
    if exc is not None and not isinstance(exc, OSError):  # else the client has left
        _log.error("a response was cut", exc_info=exc)
    return exc is None


class _BodySender:
    """Sends bodies and pings, never two at a time: ASGI servers do not expect that."""

    def __init__(self, send: Send, ping: bytes, ping_interval: float) -> None:
        self._send = send
        self._ping_body = ping
        self._ping_interval = ping_interval
        self._loop = asyncio.get_running_loop()
        self._is_sending = False
        self._pinging: asyncio.Future[None] | None = None
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(ping_interval, self._look)

    async def pump(self, bodies: AsyncGenerator[bytes, None]) -> None:
        in_a_row = 0
        async for body in bodies:
            await self._send_one(body)
            in_a_row += len(body)
            if in_a_row >= _TURN_BYTES:  # a send may never suspend
                in_a_row = 0
                await asyncio.sleep(0)
        await self.end()

    async def end(self) -> None:
        self._timer.cancel()  # no ping after the end
        await self._send_one(b"", more_body=False)

    async def close(self) -> None:
        self._timer.cancel()
        if self._pinging is not None:
            await _cancel(self._pinging)

    async def _send_one(self, body: bytes, *, more_body: bool = True) -> None:
        if self._pinging is not None:
            await asyncio.wait([self._pinging])
        self._is_sending = True
        try:
            message = {"type": "http.response.body", "body": body, "more_body": more_body}
            await self._send(message)
        finally:
            self._is_sending = False
        self._sent_at = self._loop.time()

    def _look(self) -> None:
        """Ping if it is time, and look again later.

        There is only one timer, however many bodies are sent. A client that is still taking a
        body needs no ping.
        """
        left = self._sent_at + self._ping_interval - self._loop.time()
        if left <= 0:
            left = self._ping_interval
            if not self._is_sending and self._pinging is None:
                self._pinging = asyncio.ensure_future(self._ping())
        self._timer = self._loop.call_later(left, self._look)

    async def _ping(self) -> None:
        message = {"type": "http.response.body", "body": self._ping_body, "more_body": True}
        with suppress(OSError):  # the client has left, which another task learns too
            await self._send(message)
        self._sent_at = self._loop.time()
        self._pinging = None


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
