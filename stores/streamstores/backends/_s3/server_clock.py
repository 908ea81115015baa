"""S3's time, learned from the `Date` header of its answers."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DRIFT = 1e-4  # seconds by which two clocks may diverge in one second


class ServerClock:
    """This machine's wall clock, corrected to stay within what S3's answers allow.

    An answer's `Date`, in whole seconds, was true at some time between the request and the
    answer. That bounds the difference between S3's clock and the monotonic clock to about
    one second, and every further answer tightens the bounds. The machine's clock is finer
    than that, so it is used as long as it lies within the bounds; otherwise the nearer bound
    is. Every process is therefore within a second of S3.
    """

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        self._observed_at = time.monotonic()
        self._lock = threading.Lock()

    def observe(self, date: float, asked_at: float, answered_at: float) -> None:
        """Take the `Date` of an answer, in seconds since 1970, and the monotonic times of
        the request and of the answer."""
        low, high = date - answered_at, date + 1 - asked_at
        with self._lock:  # answers arrive in several threads
            # The older the bounds, the further the two clocks may have drifted apart.
            slack = (answered_at - self._observed_at) * _DRIFT
            self._low = max(low, self._low - slack)
            self._high = min(high, self._high + slack)
            self._observed_at = answered_at
            if self._low > self._high:  # a clock was set, or the servers' clocks differ
                self._low, self._high = low, high

    def seconds(self) -> float:
        """Seconds since 1970."""
        monotonic = time.monotonic()
        return min(max(time.time(), monotonic + self._low), monotonic + self._high)

    def now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=round(self.seconds() * 1e6))
