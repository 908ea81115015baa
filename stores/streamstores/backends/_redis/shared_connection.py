"""One connection that all callers share: requests go out as they come, replies in order.

Sharing keeps a cancelled call harmless. A caller holds a future, never the connection, so a
cancellation takes nothing from the socket: the reply is read all the same, and dropped. It
also makes many callers cheap: while a reply is awaited, everything that is asked within one
turn of the event loop is one write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as ServerRefuses

from streamstores.backends._redis.connections import Greeting, close_connection, start_task
from streamstores.backends._redis.transports import CommandTransport, open_transport

HandleReply = Callable[[Any], Any]


class NotSent(Exception):
    """The request never reached the server, or the server refused to look at it."""


class ReplyLost(Exception):
    """The request was sent, and its outcome is not known."""


class _Request:
    __slots__ = ("arguments", "future", "handle")

    def __init__(
        self, arguments: tuple[Any, ...], handle: HandleReply, future: asyncio.Future[Any]
    ) -> None:
        self.arguments = arguments
        self.handle = handle
        self.future = future

    def take(self, reply: Any) -> None:
        """Run the handler, even if the caller is gone: followers have to hear of a commit."""
        if isinstance(reply, Exception):
            self.fail(reply)
            return
        try:
            result = self.handle(reply)
        except Exception as exc:
            self.fail(exc)
        else:
            if not self.future.done():
                self.future.set_result(result)

    def fail(self, exc: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(exc)


class SharedConnection:
    """A connection for all callers, from its first request until it breaks.

    Connecting is part of the first request. A server that owes replies and sends none for
    `timeout` seconds breaks the connection: replies come in order, so no later reply can come
    either. As long as they come, a request waits for its turn, however busy this process is.
    Giving up would fail all callers at once, and their new tries would find it busier still.
    """

    def __init__(
        self,
        name: bytes,
        connect: Callable[[], Awaitable[tuple[Connection, Greeting]]],
        on_break: Callable[[SharedConnection], None],
        timeout: float,
    ) -> None:
        self.name = name
        """The sender in the notices of its mutations."""
        self.failure: Exception | None = None
        """Why it broke; None while it works."""
        self.greeting: Greeting | None = None
        """What the server said; None while it connects."""
        self.has_unanswered = False
        """Whether it broke while requests were on their way, which may still be applied."""
        self._connect = connect
        self._on_break = on_break
        self._timeout = timeout
        self._queue: list[_Request] = []
        self._sent: deque[_Request] = deque()
        self._transport: CommandTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_ending = False
        self._quiet_since = 0.0
        """When the server last replied, or began to owe a reply."""
        # One timer for all requests, because one for each would cost as much as sending it. So
        # a lost reply is noticed up to a quarter of the timeout late.
        self._timer = self._loop.call_later(timeout / 4, self._check_silence)
        self._task = start_task(self._serve(), "redis connection")

    def call(self, *arguments: Any, handle: HandleReply) -> asyncio.Future[Any]:
        """Send a request, and return a future of what `handle` makes of the reply.

        The future fails with the server's `ResponseError`, with `NotSent` or `ReplyLost`, or
        with what `handle` raises. A request that is cancelled before it is sent never is.
        """
        request = _Request(arguments, handle, self._loop.create_future())
        if self.failure is not None:
            request.fail(NotSent(self.failure))
        else:
            self._queue.append(request)
            # With an idle connection nothing else would gather, so waiting only costs time.
            if not self._sent:
                self._send()
            elif len(self._queue) == 1:
                # The first request of this turn of the loop schedules the write that takes them
                # all.
                self._loop.call_soon(self._send)
        return request.future

    async def aclose(self) -> None:
        self.hang_up(ConnectionError("the store was closed"))
        await asyncio.wait([self._task])

    def hang_up(self, exc: Exception) -> None:
        """Break the connection: every caller fails with `exc` as the cause."""
        if self.failure is not None:
            return
        # First of all, because the callers that fail below may ask again at once.
        self.failure = exc
        self.has_unanswered = bool(self._sent)
        self._timer.cancel()
        if not self._is_ending:
            self._task.cancel()
        for request in self._sent:
            request.fail(_caused(ReplyLost, exc))
        for request in self._queue:
            request.fail(_caused(NotSent, exc))
        self._sent.clear()
        self._queue.clear()
        self._on_break(self)

    async def _serve(self) -> None:
        """Connect, and carry requests until the connection breaks."""
        reason: Exception = ConnectionError("the connection was lost")
        connection = None
        try:
            connection, self.greeting = await self._connect_in_time()
            if self.failure is None:  # before Python 3.12 wait_for may swallow a cancellation
                self._transport = open_transport(connection, self._take, self._send)
                self._send()
                await self._transport.lost
        except Exception as exc:
            reason = exc
        finally:
            self._is_ending = True  # from here on nothing cancels the task: it disconnects
            self.hang_up(reason)
            if connection is not None:
                await close_connection(connection)

    async def _connect_in_time(self) -> tuple[Connection, Greeting]:
        try:
            # Not `in_time`, which would drop a connection that is there when this is cancelled.
            return await asyncio.wait_for(self._connect(), self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no connection in {self._timeout} seconds") from None

    def _send(self) -> None:
        """Send everything in the queue, as one write."""
        if self._transport is None or not self._transport.is_writable or not self._queue:
            return
        queue, self._queue = self._queue, []
        requests = [request for request in queue if not request.future.cancelled()]
        if not self._sent:
            self._quiet_since = time.monotonic()
        self._sent += requests
        self._transport.send(*[request.arguments for request in requests])

    def _take(self, reply: Any) -> None:
        # What still arrives belongs to requests that have failed already.
        if self.failure is not None:
            return
        self._quiet_since = time.monotonic()
        if isinstance(reply, ServerRefuses):
            # LOADING, NOAUTH and the like hold for every request on this connection.
            if self._sent:
                self._sent.popleft().fail(_caused(NotSent, reply))
            raise reply
        self._sent.popleft().take(reply)

    def _check_silence(self) -> None:
        if self._sent and time.monotonic() - self._quiet_since > self._timeout:
            self.hang_up(TimeoutError(f"no reply in {self._timeout} seconds"))
        else:
            self._timer = self._loop.call_later(self._timeout / 4, self._check_silence)


def _caused(kind: type[Exception], cause: Exception) -> Exception:
    exc = kind(str(cause) or repr(cause))
    exc.__cause__ = cause
    return exc
