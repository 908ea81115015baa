"""Responses of server-sent events, which last as long as their streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.types import Receive, Send

from streamstores import logs
from streamstores._sse import encode_event
from streamstores.errors import InvalidRequest
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.gate import Gate
from streamstores.http._asgi.patience import BoundedSend, ClientPatience, SendWatch, drop
from streamstores.store import Record

__all__ = ["EventStream", "event_stream", "event_stream_headers", "in_parts"]

_PING = encode_event(b"", name=b"ping")
_TURN_BYTES = 65_536  # to one client, before others get their turn
_LONGEST_SECONDS = 3_600.0  # a longer timer may overflow in an event loop
_EVENT_BYTES = 32  # about what the wire adds to a record

_log = logging.getLogger("streamstores.http")


def event_stream_headers(ping_interval: float) -> list[tuple[bytes, bytes]]:
    """The headers of a response of events, which no proxy may cache, transform or buffer."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
        (b"x-stream-ping", b"%g" % ping_interval),
    ]


class EventStream(NamedTuple):
    """How one handler sends events."""

    patience: ClientPatience
    ping_interval: float
    """Seconds of silence after which a client gets a ping."""
    ping: bytes = _PING
    lasts: float | None = None
    """Seconds after which a response ends; None for no limit."""

    async def send(
        self,
        exchange: Exchange,
        headers: list[tuple[bytes, bytes]],
        bodies: AsyncGenerator[bytes, None],
        *,
        status: int = 200,
    ) -> bool:
        """Answer with `bodies`, and pings between them. True if the client has left, or was
        dropped because it took nothing.

        The response ends when `bodies` end, the client leaves or takes nothing for too long,
        the gate closes, or the time is up. In the last two cases, and after an error in
        `bodies`, which is logged, it ends cleanly at the HTTP level. The server's back-pressure
        is passed on: while a client does not read, the next body is not asked for.
        """
        send = exchange.send
        if isinstance(send, BoundedSend):  # `_BodySender` bounds all its waits by one timer
            send = send.unbounded
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sender = _BodySender(send, self)
        pump = asyncio.ensure_future(sender.pump(bodies))
        leaving = asyncio.ensure_future(_until_disconnected(exchange.receive))
        # The callbacks of one future are much cheaper than `asyncio.wait`.
        pump.add_done_callback(sender.finish)
        leaving.add_done_callback(sender.interrupt)
        self.patience.gate.tell(sender.interrupt)
        try:
            await sender.over
        finally:
            self.patience.gate.forget(sender.interrupt)
            # A client that leaves when everything has been sent has lost nothing.
            has_left = leaving.done() and not pump.done()
            leaving.cancel()
            # The pump first: a generator cannot be closed while another task is inside it.
            await _cancel(pump)
            await sender.close()
            await bodies.aclose()
        if sender.is_stuck:
            drop(exchange.scope)
        elif _was_completed(pump):
            await self.patience.until_taken(exchange.scope, sender.size)
        elif not has_left and not sender.is_ending:
            await self._finish(exchange, sender)
        return has_left or sender.is_stuck

    async def _finish(self, exchange: Exchange, sender: _BodySender) -> None:
        """End a body that was cut, and see that the client takes it."""
        ending = asyncio.ensure_future(sender.end())
        watch = SendWatch(self.patience, ending.cancel)
        try:
            await asyncio.wait([ending])
        finally:
            watch.stop()
            await _cancel(ending)
        if ending.cancelled():
            drop(exchange.scope)
            return
        with suppress(OSError):  # the client has left
            ending.result()
            await self.patience.until_taken(exchange.scope, sender.size)


def event_stream(
    send_timeout: float, ping_interval: float, *, ping: bytes = _PING
) -> EventStream:
    """How a new handler sends events, with a gate of its own. Raises `InvalidRequest` for
    settings out of range."""
    if not ping_interval > 0:
        raise InvalidRequest(f"ping_interval must be above 0 seconds, not {ping_interval!r}")
    return EventStream(ClientPatience(send_timeout, Gate()), ping_interval, ping)


def in_parts(records: list[Record], size: int) -> Iterator[list[Record]]:
    """The records in parts that take about `size` bytes on the wire.

    So no more than that is encoded ahead for a client that does not read.
    """
    if len(records) == 1:  # the usual case for live followers
        yield records
        return
    part: list[Record] = []
    left = size
    for record in records:
        part.append(record)
        left -= len(record.data) + _EVENT_BYTES
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
        _log.error("a response was cut", exc_info=exc, extra=logs.event("http.response_cut"))
    return exc is None


class _BodySender:
    """Sends bodies and pings, never two at a time: ASGI servers do not expect that.

    One timer serves both the pings and the bound on a client that takes nothing, because a
    timer for each body would cost as much as sending it.
    """

    def __init__(self, send: Send, stream: EventStream) -> None:
        self.size = 0
        """How many bytes were sent."""
        self.is_ending = False
        """Whether the end of the response is being sent, or was."""
        self.is_stuck = False
        """Whether the client has taken nothing for too long."""
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when there is nothing more to wait for."""
        self._send = send
        self._stream = stream
        self._sending_since: float | None = None
        self._pinging: asyncio.Future[None] | None = None
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_at(self._next_look(), self._look)
        self._limit: asyncio.TimerHandle | None = None
        if stream.lasts is not None:
            self._limit = self._loop.call_later(stream.lasts, self.interrupt)

    async def pump(self, bodies: AsyncGenerator[bytes, None]) -> None:
        """Send all bodies and the end of the response."""
        in_a_row = 0
        async for body in bodies:
            await self._send_one(body)
            in_a_row += len(body)
            if in_a_row >= _TURN_BYTES:  # a send may never suspend
                in_a_row = 0
                await asyncio.sleep(0)
        await self.end()

    async def end(self) -> None:
        """Send the end of the response; no ping comes after it."""
        self.is_ending = True
        await self._send_one(b"", more_body=False)

    def interrupt(self, _: object = None) -> None:
        """Let the wait be over, unless the end is being sent, which must not be sent again."""
        if not self.is_ending:
            self.finish()
        elif not self.over.done():
            self._look()  # the client may have less time now

    def finish(self, _: object = None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    async def close(self) -> None:
        self._timer.cancel()
        if self._limit is not None:
            self._limit.cancel()
        if self._pinging is not None:
            await _cancel(self._pinging)

    async def _send_one(self, body: bytes, *, more_body: bool = True) -> None:
        if self._pinging is not None:
            await asyncio.wait([self._pinging])
        self.size += len(body)
        self._sending_since = self._loop.time()
        try:
            message = {"type": "http.response.body", "body": body, "more_body": more_body}
            await self._send(message)
        finally:
            self._sending_since = None
        self._sent_at = self._loop.time()

    def _look(self) -> None:
        """Ping if it is time, or give the client up. A client that is still taking a body
        needs no ping."""
        self._timer.cancel()
        since = self._sending_since
        if since is not None and self._stream.patience.is_over(since):
            self.is_stuck = True
            self.finish()
            return
        now = self._loop.time()
        if since is None and not self.is_ending and self._next_ping() <= now:
            self._sent_at = now
            self._pinging = asyncio.ensure_future(self._ping())
        self._timer = self._loop.call_at(self._next_look(), self._look)

    def _next_look(self) -> float:
        """When a ping may be due, or the client have taken nothing for too long. A body that
        begins to wait after this look is seen by the next one, which is not too late for it."""
        now, seconds = self._loop.time(), self._stream.patience.seconds
        if self._sending_since is not None:
            moment = self._sending_since + seconds
        else:
            moment = min(self._next_ping(), now + seconds)
        return min(moment, now + _LONGEST_SECONDS)

    def _next_ping(self) -> float:
        return self._sent_at + self._stream.ping_interval

    async def _ping(self) -> None:
        """Send a ping. It has as much time as a body, because a client that takes no ping takes
        nothing."""
        message = {
            "type": "http.response.body",
            "body": self._stream.ping,
            "more_body": True,
        }
        self._sending_since = self._loop.time()
        try:
            with suppress(OSError):  # the client has left, which another task learns too
                await self._send(message)
        finally:
            self._sending_since = None
            self._pinging = None
        self._sent_at = self._loop.time()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait until it has ended."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
