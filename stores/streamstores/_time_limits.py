"""A time limit that never loses the cancellation of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["in_time"]

T = TypeVar("T")


async def in_time(awaitable: Awaitable[T], seconds: float) -> T:
    """The result of `awaitable`; raises `asyncio.TimeoutError` if it takes longer.

    An awaitable that is late, or whose caller is cancelled, is cancelled, and this returns only
    when it has ended. A caller that is cancelled always gets `CancelledError`.

    `asyncio.wait_for` swallows a cancellation that comes in the same turn of the loop as the
    result, before Python 3.12. A background task that is cancelled once, and then waited for,
    goes on for ever after that.

    If the caller is cancelled, a result that is there already is dropped, so the result must
    not be something to close.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if task.done():
        return task.result()
    await _end(task)
    if task.cancelled():
        raise asyncio.TimeoutError(f"no answer in {seconds:g} seconds")
    return task.result()  # it ended after all, or it failed while it was cancelled


async def _end(task: asyncio.Future[T]) -> None:
    task.cancel()
    # asyncio complains of an exception that was never retrieved, also if this is cancelled.
    task.add_done_callback(_ask_for_exception)
    await asyncio.wait([task])


def _ask_for_exception(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()
