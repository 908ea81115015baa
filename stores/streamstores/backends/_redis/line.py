"""One connection that all callers share: requests go out as they come, replies in order.

It is what keeps a cancelled call harmless. A caller holds a future, never the connection, so
to cancel it takes nothing from the wire: its reply is read all the same, and dropped. And it
is what makes many callers cheap: while a reply is awaited, what they ask within one turn of
the event loop is one write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as ServerRefuses

from streamstores.backends._redis.connecting import disconnect, start
from streamstores.backends._redis.wire import Wire

Handle = Callable[[Any], Any]


class NotSent(Exception):
    """The request never reached the server, or the server refused to look at it."""


class ReplyLost(Exception):
    """The request was sent, and what became of it is not known."""


class _Call:
    __slots__ = ("arguments", "future", "handle", "since")

    def __init__(
        self, arguments: tuple[Any, ...], handle: Handle, future: asyncio.Future[Any]
    ) -> None:
        self.arguments = arguments
        self.handle = handle
        self.future = future
        self.since = time.monotonic()

    def take(self, reply: Any) -> None:
        """Run the handler, also where nobody waits any more: a commit is one all the same."""
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


class Line:
    """A connection for all callers, from its first request until it breaks.

    Connecting is part of the first request. A request that gets no reply for `timeout`
    seconds breaks the line: replies come in order, so none behind it can come either.
    """

    def __init__(
        self,
        name: bytes,
        connect: Callable[[], Awaitable[Connection]],
        on_break: Callable[[], None],
        timeout: float,
    ) -> None:
        self.name = name
        """What the notices of its mutations are signed with."""
        self._connect = connect
        self._on_break = on_break
        self._timeout = timeout
        self._queue: list[_Call] = []
        self._sent: deque[_Call] = deque()
        self._wire: Wire | None = None
        self._loop = asyncio.get_running_loop()
        self.failure: Exception | None = None
        self._is_ending = False
        self._timer = self._loop.call_later(timeout / 4, self._look_for_delay)
        self._task = start(self._run(), "redis line")

    def call(self, *arguments: Any, handle: Handle) -> asyncio.Future[Any]:
        """Ask, and get a future of what `handle` makes of the reply.

        The future fails with the server's `ResponseError`, with `NotSent` or `ReplyLost`, or
        with what `handle` raises. A request that is cancelled before it is sent never is.
        """
        call = _Call(arguments, handle, self._loop.create_future())
        if self.failure is not None:
            call.fail(NotSent(self.failure))
        else:
            self._queue.append(call)
            if not self._sent:
                self._send()
            elif len(self._queue) == 1:
                self._loop.call_soon(self._send)
        return call.future

    async def aclose(self) -> None:
        self.hang_up(ConnectionError("the store was closed"))
        await asyncio.wait([self._task])

    def hang_up(self, exc: Exception) -> None:
        """Break the line: whoever waits hears of `exc`, and nobody can ask any more."""
        if self.failure is not None:
            return
        self.failure = exc
        self._timer.cancel()
        if not self._is_ending:
            self._task.cancel()
        for call in self._sent:
            call.fail(_caused(ReplyLost, exc))
        for call in self._queue:
            call.fail(_caused(NotSent, exc))
        self._sent.clear()
        self._queue.clear()
        self._on_break()

    async def _run(self) -> None:
        reason: Exception = ConnectionError("the connection was lost")
        connection = None
        try:
            connection = await self._connect_in_time()
            if self.failure is None:  # before Python 3.12 wait_for may swallow a cancellation
                self._wire = Wire(connection, self._take, self._send)
                self._send()
                await self._wire.lost
        except Exception as exc:
            reason = exc
        finally:
            self._is_ending = True  # so that nothing cancels the disconnecting
            self.hang_up(reason)
            if connection is not None:
                await disconnect(connection)

    async def _connect_in_time(self) -> Connection:
        try:
            return await asyncio.wait_for(self._connect(), self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no connection in {self._timeout} seconds") from None

    def _send(self) -> None:
        """Send what is queued, as one write."""
        if self._wire is None or not self._wire.is_writable or not self._queue:
            return
        queue, self._queue = self._queue, []
        calls = [call for call in queue if not call.future.cancelled()]
        self._sent += calls
        self._wire.send(*[call.arguments for call in calls])

    def _take(self, reply: Any) -> None:
        if self.failure is not None:
            return
        if isinstance(reply, ServerRefuses):
            if self._sent:
                self._sent.popleft().fail(_caused(NotSent, reply))
            raise reply
        self._sent.popleft().take(reply)

    def _look_for_delay(self) -> None:
        oldest = self._sent[0] if self._sent else self._queue[0] if self._queue else None
        if oldest is not None and time.monotonic() - oldest.since > self._timeout:
            self.hang_up(TimeoutError(f"no reply in {self._timeout} seconds"))
        else:
            self._timer = self._loop.call_later(self._timeout / 4, self._look_for_delay)


def _caused(kind: type[Exception], cause: Exception) -> Exception:
    exc = kind(str(cause) or repr(cause))
    exc.__cause__ = cause
    return exc
