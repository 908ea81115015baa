"""Repeating what another writer may have spoiled, with pauses and a bound."""

from __future__ import annotations

import asyncio
import random
import time

from streamstores.errors import StoreUnavailable

_AT_ONCE = 3  # rounds without a pause: the loser of an ordinary race wins the next
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.1


class PacedRounds:
    """Rounds of a change, with random and growing pauses after the first three."""

    def __init__(self, seconds: float, stream_id: str) -> None:
        self._give_up_at = time.monotonic() + seconds
        self._stream_id = stream_id
        self._count = 0

    async def begin(self) -> None:
        """Begin the first or the next round, if it is known that nothing was applied so far.

        Raises `StoreUnavailable` when the time is over.
        """
        if self._count >= _AT_ONCE:
            if time.monotonic() > self._give_up_at:
                raise StoreUnavailable(
                    f"stream {self._stream_id!r} cannot be changed: {self._count} tries in a "
                    "row were refused"
                )
            pause = _FIRST_PAUSE_SECONDS * 1.5 ** min(self._count - _AT_ONCE, 20)
            await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0))
        self._count += 1
