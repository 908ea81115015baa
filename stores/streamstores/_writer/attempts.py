"""Pauses between the attempts of one call, and the time at which it gives up."""

from __future__ import annotations

import asyncio
import random

from streamstores import observation
from streamstores.errors import StreamStoreError

__all__ = ["Attempts"]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class Attempts:
    """The attempts of one call, for `retry_for` seconds from its first failure.

    The pauses double from 50 ms to one second. They are jittered, because all writers of a
    process lose a backend at the same moment and must not come back at the same moment.
    """

    def __init__(self, retry_for: float) -> None:
        self._retry_for = retry_for
        self._give_up_at: float | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    async def pause(self, exc: StreamStoreError) -> None:
        """Sleep before the next attempt; raise `exc` if there is no time left for another."""
        now = asyncio.get_running_loop().time()
        # From the first failure: an attempt that itself timed out after `retry_for` seconds
        # would otherwise never be repeated.
        if self._give_up_at is None:
            self._give_up_at = now + self._retry_for
        if now + self._pause_seconds > self._give_up_at:
            raise exc
        if observation.observer is not None:
            observation.observer.retried(exc)
        await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.0))
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
