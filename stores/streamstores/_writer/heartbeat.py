"""When a writer that has nothing to append shows that it is alive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

__all__ = ["Heartbeat"]

_MOMENTS = 50
"""In an interval, at which heartbeats are due."""

_PHASE = random.random()
"""Of those moments, so that the processes of a machine do not come together too."""


class Heartbeat:
    """Calls `on_due` whenever there was no append for `interval` seconds, give or take a
    fiftieth.

    One timer for the writer's whole life: when it fires it looks whether there was an append
    meanwhile. A timer for each append would cost more than the rest of a small append.
    """

    __slots__ = ("_appended_at", "_interval", "_is_appending", "_loop", "_on_due", "_timer")

    def __init__(self, interval: float | None, on_due: Callable[[], None]) -> None:
        """Begin now; with None it never calls."""
        self._interval = interval
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._is_appending = False
        self._appended_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if interval is not None:
            self._call_at(self._appended_at + interval, interval)

    def append_begins(self) -> None:
        """Until it returns, the append itself says whether the producer is alive."""
        self._is_appending = True

    def append_returned(self) -> None:
        self._is_appending = False
        self._appended_at = self._loop.time()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self, interval: float) -> None:
        now = self._loop.time()
        due = self._appended_at + interval
        if self._is_appending:
            due = now + interval
        elif due <= now + interval / _MOMENTS:
            self._on_due()
            due = now + interval
        self._call_at(due, interval)

    def _call_at(self, due: float, interval: float) -> None:
        """Set the timer, to a moment that all writers with this interval share: so their
        heartbeats are one transaction, statement or write together."""
        step = interval / _MOMENTS
        moment = (round(due / step - _PHASE) + _PHASE) * step
        self._timer = self._loop.call_at(moment, self._fire, interval)
