"""Watching one's own stream for what others do to it, without a task that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamstores._shared_reader import SharedReader
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["StateWatch"]


class StateWatch:
    """Calls `on_change` once, when the stream of `info` is not as its producer has it any more:
    when it has left streaming, when `is_own(info)` is false, or when it cannot be followed.

    `info` is what the store has just shown. Without a read it can be watched only by stores
    that look for lost notices; for others `is_watching` is False from the start. Used in one
    event loop.
    """

    def __init__(
        self,
        store: StreamStore,
        info: StreamInfo,
        is_own: Callable[[StreamInfo], bool],
        on_change: Callable[[StreamInfo], None],
    ) -> None:
        self._store = store
        self._is_own = is_own
        self._on_change = on_change
        self._waiter: asyncio.Future[bool] | None = None
        self._reader: SharedReader | None = SharedReader.join(store, info.id)
        if self._reader.number_as_seen(info, info.tail) is None:
            self.stop()
        else:
            self._wait(self._reader)

    @property
    def is_watching(self) -> bool:
        """Whether `on_change` is still to be called."""
        return self._reader is not None

    def stop(self) -> None:
        """Watch no longer. Idempotent."""
        reader, self._reader = self._reader, None
        waiter, self._waiter = self._waiter, None
        if reader is not None:
            if waiter is not None:
                waiter.remove_done_callback(self._changed)
                reader.dequeue(waiter)
            reader.leave(self._store)
            del self._is_own, self._on_change  # a way back to this object

    def _wait(self, reader: SharedReader) -> None:
        self._waiter = reader.enqueue_for_state()
        self._waiter.add_done_callback(self._changed)

    def _changed(self, waiter: asyncio.Future[bool]) -> None:
        """Go on watching if this was the producer's own change, and else report it."""
        reader = self._reader
        if reader is None:
            return
        info = reader.info
        if reader.failure is None and info.state is State.STREAMING and self._is_own(info):
            self._wait(reader)
            return
        on_change = self._on_change
        self.stop()
        on_change(info)
