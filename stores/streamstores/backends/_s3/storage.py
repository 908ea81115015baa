"""What all parts of one S3 store share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from streamstores.backends._s3.block_format import Stamp
from streamstores.backends._s3.bucket import Bucket
from streamstores.backends._s3.expiry_calendar import ExpiryCalendar
from streamstores.backends._s3.object_keys import ObjectKeys
from streamstores.backends._s3.paced_rounds import PacedRounds
from streamstores.backends._s3.server_clock import ServerClock

_ROUNDS_TIMEOUTS = 6  # a change of a contended stream may take as long as this many calls


@dataclass(frozen=True)
class Storage:
    """The bucket, the keys and the calendar below a prefix, and S3's clock."""

    bucket: Bucket
    keys: ObjectKeys
    calendar: ExpiryCalendar
    grace: float
    """Seconds for which removed segments are kept."""
    timeout: float
    """Seconds of one call to S3, with its retries."""
    _writer: str = field(default_factory=lambda: secrets.token_hex(8))
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def clock(self) -> ServerClock:
        return self.bucket.clock

    def rounds(self, stream_id: str) -> PacedRounds:
        """For a change that other writers may spoil."""
        return PacedRounds(_ROUNDS_TIMEOUTS * self.timeout, stream_id)

    def stamp(self) -> Stamp:
        """A name for one PUT, used by no other, and S3's time now."""
        return Stamp(f"{self._writer}-{next(self._numbers)}", self.clock.seconds())
