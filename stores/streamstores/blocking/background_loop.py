"""The event loop of synchronous code, in a thread of its own, and what lives in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from streamstores.errors import InvalidRequest

__all__ = ["Resident", "call", "iterate"]

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_loop_pid = 0
_abandoned: list[Any] = []
"""What a forked process inherited and must never touch: to finalize a copied connection would
speak on its parent's socket."""


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock at the fork does not exist there."""
    global _lock  # noqa: PLW0603 - it is the module that is forked
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _running_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started by its first call.

    The thread is a daemon, so that a program that forgets to close its store still ends.
    """
    global _loop, _loop_pid
    with _lock:
        if _loop is None or _loop_pid != os.getpid():
            _abandoned.append(_loop)
            _loop, _loop_pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(
                target=_loop.run_forever, name="streamstores: blocking calls", daemon=True
            ).start()
        return _loop


def call(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the loop and wait for it. An exception in the waiting thread cancels it."""
    loop = _running_loop()
    if threading.current_thread().name == "streamstores: blocking calls":
        # Or Python would warn that the coroutine was never awaited.
        work.close()
        raise InvalidRequest("a blocking call from the event loop itself would wait for ever")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """The items of an asynchronous iterator, which is closed at the end."""
    try:
        while True:
            try:
                yield call(_next(items))
            except StopAsyncIteration:
                return
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            call(_awaited(aclose()))


class Resident(Generic[R]):
    """An object that lives in the loop, made there by the first call of each process."""

    def __init__(self, make: Callable[[], Awaitable[R]], *, survives_fork: bool) -> None:
        self._make = make
        self._survives_fork = survives_fork
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._object: R | None = None
        self._closed = False

    def get(self) -> R:
        """The object of this process. Raises `InvalidRequest` after `take`, and after a fork
        if the object cannot be made anew."""
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            if self._closed:
                raise InvalidRequest("this object is closed")
            if self._object is None:
                self._object = call(_awaited(self._make()))
            return self._object

    def take(self) -> R | None:
        """The object, to be closed; None if there is none in this process."""
        with self._lock:
            self._closed = True
            is_inherited = self._pid != os.getpid()
            taken, self._object = self._object, None
            if is_inherited:
                _abandoned.append(taken)
            return None if is_inherited else taken

    def _begin_anew(self) -> None:
        """Forget what the parent process had. The lock may be held by a thread that a fork
        did not copy."""
        if not self._survives_fork:
            raise InvalidRequest("this store was opened before the fork: open it in the child")
        _abandoned.append(self._object)
        self._lock = threading.Lock()
        self._object = None
        self._pid = os.getpid()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
