"""What a caller may ask of an existing stream, besides an append."""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from streamstores.mutations import Mutation, with_expiry
from streamstores.store import StreamInfo

_SAME_END_SECONDS = 0.5  # an `expire` that moves the end by less than this writes nothing


class Expire(NamedTuple):
    """A checked request to `expire`."""

    ttl: float | None
    expires_at: datetime | None


class Delete(NamedTuple):
    """A request to `delete`."""


ChangeRequest = Mutation | Expire | Delete


def expiring(info: StreamInfo, request: Expire, now: datetime) -> StreamInfo:
    """The info after `expire`; the same object if nothing needs to be written."""
    after = with_expiry(info, request.ttl, request.expires_at, now)
    if after.ttl == info.ttl and _is_same_end(after.expires_at, info.expires_at, info.ttl):
        return info
    return after


def _is_same_end(end: datetime | None, before: datetime | None, ttl: float | None) -> bool:
    if end is None or before is None or ttl is None:
        return end == before
    slack = min(_SAME_END_SECONDS, ttl / 10)
    return math.fabs((end - before).total_seconds()) < slack
