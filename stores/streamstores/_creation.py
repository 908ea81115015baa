"""Waiting for a stream that something else is about to create."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamstores.changes import subscribed
from streamstores.errors import StreamNotFound
from streamstores.store import StreamStore

__all__ = ["once_created"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between looks

T = TypeVar("T")


async def once_created(
    store: StreamStore, stream_id: str, created_by: float, look: Callable[[], Awaitable[T]]
) -> T:
    """The result of `look`, which is repeated while it raises `StreamNotFound`.

    After `created_by`, a time of `time.monotonic`, the error is raised. A creation in this
    process is noticed at once, one elsewhere within half a second.
    """
    with subscribed(store, stream_id) as bell:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await look()
            except StreamNotFound:
                left = created_by - time.monotonic()
                if left <= 0:
                    raise
            await bell.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
