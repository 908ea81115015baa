"""When to look at which stream: empty objects whose keys begin with a time.

So a sweep is one LIST of what is due, whatever the number of streams.
"""

from __future__ import annotations

import math
from contextlib import suppress

from streamstores.backends._s3.keys import Due, Keys
from streamstores.backends._s3.transport import Bucket
from streamstores.errors import CorruptData
from streamstores.limits import to_microseconds
from streamstores.store import StreamInfo

_LAST_SECOND = 10**12 - 1


class Calendar:
    """The entries. Each is written before what it is about, so that nothing is forgotten
    where the writer dies between the two; one too many costs a look."""

    def __init__(self, bucket: Bucket, keys: Keys, grace: float) -> None:
        self._bucket = bucket
        self._keys = keys
        self._grace = grace

    async def note_end(self, info: StreamInfo, due: int | None) -> int | None:
        """Have an entry at or before the end of the stream; returns the time of it.

        `due` is the time of the one there is: a sweep moves it where the end has slid. One
        PUT where a new one is needed.
        """
        if info.expires_at is None:
            return due
        end = min(max(math.ceil(to_microseconds(info.expires_at) / 1e6), 0), _LAST_SECOND)
        if due is not None and self._bucket.clock.seconds() < due <= end:
            return due
        await self._bucket.put(self._keys.due_stream(end, info.id), b"")
        return end

    async def note_rest(self, generation: str) -> None:
        """Have the segments of a generation removed when `grace` seconds are over."""
        seconds = math.ceil(self._bucket.clock.seconds() + self._grace) + 1
        await self._bucket.put(self._keys.due_rest(seconds, generation), b"")

    async def due(self, limit: int) -> list[tuple[str, Due]]:
        """At most `limit` entries whose time has come, with their keys, the oldest first."""
        now = self._bucket.clock.seconds()
        listing = await self._bucket.list(self._keys.calendar, at_most=min(limit, 1000))
        entries = []
        for key in listing.keys:
            try:
                entry = self._keys.due_of(key)
            except CorruptData:
                continue  # somebody else's object
            if entry.seconds > now:
                break
            entries.append((key, entry))
        return entries

    async def generations(self) -> set[str]:
        """Those whose removal is noted; one LIST for 1000 entries."""
        found = set()
        token = None
        while True:
            listing = await self._bucket.list(self._keys.calendar, token=token)
            for key in listing.keys:
                with suppress(CorruptData):
                    found.add(self._keys.due_of(key).generation or "")
            token = listing.next_token
            if token is None:
                return found

    async def strike(self, key: str) -> None:
        await self._bucket.delete(key)
