"""Plain iterators as sources."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from streamstores.runs.source import as_exception

__all__ = ["IteratorThread"]

_END = object()


class IteratorThread:
    """An asynchronous iterator over a plain iterator, which runs in a thread of its own.

    The thread is not from a pool, because sources that block for minutes would use up the pool
    for everything else. It is a daemon, so that it cannot keep the process from ending.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._loop = asyncio.get_running_loop()
        self._steps: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        self._closed: asyncio.Future[Any] = self._loop.create_future()
        # The source sees the context variables of the request that started it (its user, its
        # trace), as it would without a thread.
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run,
            args=(self._take_steps,),
            name="streamstores: source",
            daemon=True,
        )
        thread.start()

    def __aiter__(self) -> IteratorThread:
        return self

    async def __anext__(self) -> Any:
        step = self._loop.create_future()
        self._steps.put(step)
        piece = await step
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the iterator as soon as the step that is under way has returned."""
        self._steps.put(None)
        # Shielded: a caller that is cancelled here must not cancel the future, from which
        # another close learns that the thread is done.
        await asyncio.shield(self._closed)

    def _take_steps(self) -> None:
        """The thread's own function: one `next()` for each step asked for, then the close."""
        iterator = None
        while (step := self._steps.get()) is not None:
            try:
                # In the thread and as part of the first step: `iter` runs the source's code,
                # which may block or raise.
                if iterator is None:
                    iterator = iter(self._iterable)
                # With a default, because a future refuses StopIteration as its exception.
                self._answer(step, next(iterator, _END))
            except BaseException as exc:
                self._answer(step, _Raised(exc))
        with suppress(BaseException):  # the stream has ended, so there is no place to report it
            close_iterator = getattr(iterator or self._iterable, "close", None)
            if close_iterator is not None:
                close_iterator()
        self._answer(self._closed, None)

    def _answer(self, step: asyncio.Future[Any], result: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_resolve, step, result)


@dataclass
class _Raised:
    exc: BaseException


def _resolve(step: asyncio.Future[Any], result: Any) -> None:
    if step.done():
        return
    if isinstance(result, _Raised):
        step.set_exception(as_exception(result.exc))
    else:
        step.set_result(result)
