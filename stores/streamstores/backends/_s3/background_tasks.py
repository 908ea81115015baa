"""Tasks that outlive the call that started them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from streamstores.errors import StreamStoreError

T = TypeVar("T")


class BackgroundTasks:
    """Tasks that continue when their caller is cancelled; closing waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def aclose(self, seconds: float) -> None:
        """Wait at most `seconds`, then cancel what still runs."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=max(seconds, 0))
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, as the caller may have been cancelled


async def result_of(task: asyncio.Task[T], if_stopped: StreamStoreError) -> T:
    """What a background task returns or raises; `if_stopped` if closing cancelled it."""
    try:
        # Shielded, because other callers may wait for the same task.
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise if_stopped from None
        raise
