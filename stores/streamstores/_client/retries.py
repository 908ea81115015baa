"""How often a request is repeated, and after which pauses."""

from __future__ import annotations

import random

from streamstores._client.answers import Cut
from streamstores._client.statuses import StreamError

LONGEST_PAUSE_SECONDS = 30.0


class RetryBudget:
    """Counts the failures in a row, up to the number of retries."""

    def __init__(self, retries: int, first_pause_seconds: float) -> None:
        self._retries = retries
        self._first_pause_seconds = first_pause_seconds
        self._failures = 0

    def renew(self) -> None:
        """Progress was made: all attempts are there again."""
        self._failures = 0

    def next_pause(self, cut: Cut) -> float:
        """Seconds until the next attempt. Raises `StreamError` if there is none left.

        The pauses double up to half a minute. Up to a half of each is chance, so that the
        clients of a server that restarts do not come back all at once.
        """
        self._failures += 1
        if self._failures > self._retries:
            message = f"the server is out of reach: {cut}"
            raise StreamError(message, code="disconnected") from cut
        # The exponent is bounded, because the attempts may be many and a float overflows.
        doubled: float = self._first_pause_seconds * 2 ** min(self._failures - 1, 32)
        jittered = min(doubled, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
        return max(jittered, cut.retry_after)
