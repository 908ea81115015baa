"""When writers begin to append: at once in a quiet process, together in a busy one."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

__all__ = ["FREE_STARTS", "PACE_SECONDS", "Pace", "pace_here"]

PACE_SECONDS = 0.005
"""How long an append waits at most for the appends to other streams."""

FREE_STARTS = 5
"""How many appends within that time begin at once."""


class Pace:
    """Starts the appends of one event loop's writers.

    The first `FREE_STARTS` within `PACE_SECONDS` start at once. Those that come after them
    start together when that time is up. So a busy process makes one transaction, one statement
    or one write of what would have been many, and its code runs from warm caches. With less
    than a thousand starts a second, none of them waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = loop.time
        self._call_at = loop.call_at
        self._waiting: list[Callable[[], None]] = []
        self._starts = 0  # in the span that ends at `_span_end`
        self._span_end = 0.0

    def start(self, append: Callable[[], None]) -> None:
        """Call `append`, now or within `PACE_SECONDS`."""
        if self._waiting:
            self._waiting.append(append)
            return
        now = self._clock()
        if now >= self._span_end:
            self._span_end = now + PACE_SECONDS
            self._starts = 0
        self._starts += 1
        if self._starts <= FREE_STARTS:
            append()
        else:
            self._waiting.append(append)
            self._call_at(self._span_end, self._start_waiting)

    def _start_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        # These are the first of the next span: a process that stays busy goes on in step. The
        # span begins when the last one should have ended, because timers are late.
        self._starts = len(waiting)
        now = self._clock()
        self._span_end = max(self._span_end, now - PACE_SECONDS / 2) + PACE_SECONDS
        for append in waiting:
            append()


_paces: weakref.WeakValueDictionary[int, Pace] = weakref.WeakValueDictionary()
"""By the identity of the loop, which a pace keeps for as long as a writer keeps the pace."""


def pace_here() -> Pace:
    """The pace of the running event loop, which its writers share."""
    loop = asyncio.get_running_loop()
    pace = _paces.get(id(loop))
    if pace is None:
        pace = _paces[id(loop)] = Pace(loop)
    return pace
