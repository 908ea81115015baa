"""Threads for blocking calls, each of which is given up on when its time is over.

boto3 bounds each read of a socket, but no call as a whole: a server that sends a byte every
few seconds keeps one for hours. A thread cannot be stopped from outside. It is left alone
instead, as a daemon, so that neither `aclose` nor the end of the process waits for it, and
another thread takes its place.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from streamstores import observation

T = TypeVar("T")

_STUCK_FOR_EACH = 8  # given up on and still running, for each thread in use


class CallNotStarted(Exception):
    """The call never began: every thread was busy until its time was over."""


class CallOverdue(Exception):
    """The call was given up on; it may go on in its thread."""


class CallThreads:
    """At most `size` calls at a time. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[_CallThread] = []
        self.stuck = 0
        self._running: set[_Call[Any]] = set()
        self._is_closed = False

    async def run(self, call: Callable[[], T], seconds: float, *, changes: bool) -> T:
        """What `call` returns or raises, within `seconds`, including the wait for a thread.

        Raises `CallNotStarted` or `CallOverdue` if it does not. A cancelled call goes on in
        its thread; closing waits for it only if it `changes` something.
        """
        # A call that hangs keeps its thread and its connection. A server on which all calls
        # hang must not fill the process with them.
        if self.stuck >= self._size * _STUCK_FOR_EACH:
            raise CallNotStarted(f"{self.stuck} calls to S3 hang")
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        await self._acquire(seconds)
        running = _Call(self, call, changes=changes)
        self._running.add(running)
        return await running.start(self._thread(), seconds - (loop.time() - begun_at))

    async def aclose(self, seconds: float) -> None:
        """Wait at most `seconds` for calls that change something, and let the threads go."""
        self._is_closed = True
        changing = [call.ended for call in self._running if call.changes]
        if changing:
            await asyncio.wait(changing, timeout=seconds)
        for thread in self._idle:
            thread.retire()
        self._idle.clear()

    async def _acquire(self, seconds: float) -> None:
        """Wait for a free thread, in turn.

        Not by `asyncio.wait_for`: before Python 3.12 it loses a cancellation that comes in
        the same turn of the loop as the result, and a poller that is never told ends never.
        """
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(max(seconds, 0), _refuse, waiter)
        begun_at = loop.time()
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self._hand_on()  # it had become this caller's turn
            raise
        finally:
            timer.cancel()
            if observation.observer is not None:
                observation.observer.waited_for_connection("s3", loop.time() - begun_at)

    def _hand_on(self) -> None:
        """Give a thread's place to the next caller."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _thread(self) -> _CallThread:
        return self._idle.pop() if self._idle else _CallThread()

    def release(self, call: _Call[Any]) -> None:
        self._running.discard(call)
        self._hand_on()

    def take_back(self, thread: _CallThread) -> None:
        if self._is_closed:
            thread.retire()
        else:
            self._idle.append(thread)


def _refuse(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(CallNotStarted("all connections to S3 are busy"))


class _Call(Generic[T]):
    """A call in a thread, from its start until it ends or is given up on."""

    def __init__(self, threads: CallThreads, call: Callable[[], T], *, changes: bool) -> None:
        self.changes = changes
        self._threads = threads
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[T] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def start(self, thread: _CallThread, seconds: float) -> T:
        # Not `wait_for`: the call and its thread have to be accounted for even if the caller
        # is cancelled and nothing waits for the result.
        timer = self._loop.call_later(seconds, self._give_up, thread)
        thread.submit(lambda: self._run(thread, timer))
        return await self._result

    def _run(self, thread: _CallThread, timer: asyncio.TimerHandle) -> None:
        """Runs in the thread."""
        try:
            outcome: tuple[T | None, BaseException | None] = (self._call(), None)
        except BaseException as exc:
            outcome = (None, exc)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._end, thread, timer, *outcome)

    def _end(
        self,
        thread: _CallThread,
        timer: asyncio.TimerHandle,
        value: Any,
        error: BaseException | None,
    ) -> None:
        """Runs in the loop when the call has ended, in time or not."""
        timer.cancel()
        if self.ended.done():  # it was given up on, and has ended after all
            # Its place was filled when it was given up on.
            self._threads.stuck -= 1
            thread.retire()
            return
        self._finish()
        self._threads.take_back(thread)
        if self._result.done():
            return  # the caller was cancelled
        if error is None:
            self._result.set_result(value)
        else:
            self._result.set_exception(error)

    def _give_up(self, thread: _CallThread) -> None:
        self._threads.stuck += 1
        self._finish()
        if not self._result.done():
            self._result.set_exception(CallOverdue("S3 did not answer in time"))

    def _finish(self) -> None:
        self.ended.set_result(None)
        self._threads.release(self)


class _CallThread:
    """A daemon thread that runs jobs in turn until it is retired."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="streamstores-s3", daemon=True).start()

    def submit(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def retire(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
