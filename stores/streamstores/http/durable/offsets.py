"""Offsets and cursors, as clients see them.

An offset is the byte offset in a fixed width, so that texts sort as the positions do. The
first half is always zero, because the public conformance suite writes the start of a stream as
two groups of sixteen zeros.
"""

from __future__ import annotations

import random
import re
import time

from streamstores.http._asgi.errors import HttpError
from streamstores.limits import MAX_OFFSET

__all__ = ["BEGINNING", "NOW", "format_offset", "next_cursor", "parse_offset"]

BEGINNING = "-1"
NOW = "now"

_OFFSET = re.compile("([0-9]{16})_([0-9]{16})")
_CURSOR = re.compile("[0-9]{1,15}")
_CURSOR_EPOCH = 1_728_432_000  # 2024-10-09T00:00:00Z
_CURSOR_SECONDS = 20
_MOST_JITTER_SECONDS = 3600


def format_offset(offset: int) -> str:
    return f"0000000000000000_{offset:016d}"


def parse_offset(text: str) -> int:
    """The byte offset, at most `MAX_OFFSET`, which no stream reaches.

    Raises `HttpError` `invalid_offset`, also for `-1` and `now`.
    """
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise HttpError(400, "invalid_offset", "not an offset that this server gave")
    # Clamped, so that an offset no stream can have is refused like any other beyond the tail.
    return MAX_OFFSET if int(match[1]) else min(int(match[2]), MAX_OFFSET)


def next_cursor(echoed: str | None) -> int:
    """The cursor of a live response: the number of the current interval of 20 seconds.

    If the client's own cursor is already as high, it gets a higher one, so that a cache cannot
    give it the same response for ever.
    """
    current = int(time.time() - _CURSOR_EPOCH) // _CURSOR_SECONDS
    # A cursor that no server gave is ignored: it is for caches, and no reason to refuse a read.
    if echoed is None or not _CURSOR.fullmatch(echoed) or int(echoed) < current:
        return current
    jitter = random.randint(1, _MOST_JITTER_SECONDS)
    return int(echoed) + -(-jitter // _CURSOR_SECONDS)
