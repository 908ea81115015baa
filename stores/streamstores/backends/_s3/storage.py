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
from streamstores.backends._s3.server_clock import ServerClock


@dataclass(frozen=True)
class Storage:
    """The bucket, the keys and the calendar below one prefix, and S3's clock."""

    bucket: Bucket
    keys: ObjectKeys
    calendar: ExpiryCalendar
    grace: float
    """Seconds for which removed segments are kept."""
    _writer: str = field(default_factory=lambda: secrets.token_hex(8))
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def clock(self) -> ServerClock:
        return self.bucket.clock

    def stamp(self) -> Stamp:
        """A name for one PUT, used by no other, and S3's time now."""
        return Stamp(f"{self._writer}-{next(self._numbers)}", self.clock.seconds())
