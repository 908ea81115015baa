"""S3's time, learned from the `Date` of its answers."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_DRIFT = 1e-4  # seconds by which two clocks may part in one second


class ServerClock:
    """The machine's wall clock, held within what S3's answers allow.

    An answer's `Date`, whole seconds, was true between the request and its answer, which
    bounds S3's time minus the monotonic clock to about one second, and further answers
    tighten that. Where the machine's clock agrees it is taken, as it is finer; where it is
    wrong the nearer bound is. So every process is within a second of S3.
    """

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        self._observed_at = time.monotonic()

    def observe(self, date: float, asked_at: float, answered_at: float) -> None:
        """Take the `Date` of an answer, in seconds since 1970, and the monotonic times of
        the request and of the answer."""
        low, high = date - answered_at, date + 1 - asked_at
        slack = (answered_at - self._observed_at) * _DRIFT
        self._low = max(low, self._low - slack)
        self._high = min(high, self._high + slack)
        self._observed_at = answered_at
        if self._low > self._high:  # a clock was set, or S3 has several
            self._low, self._high = low, high

    def seconds(self) -> float:
        """Seconds since 1970."""
        monotonic = time.monotonic()
        return min(max(time.time(), monotonic + self._low), monotonic + self._high)

    def now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=round(self.seconds() * 1e6))


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
