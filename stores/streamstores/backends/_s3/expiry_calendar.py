"""When to check which stream: empty objects whose keys begin with a time.

A sweep therefore finds what is due with one LIST, whatever the number of streams.
"""

from __future__ import annotations

import math
from contextlib import suppress

from streamstores.backends._s3.bucket import Bucket
from streamstores.backends._s3.object_keys import CalendarEntry, ObjectKeys
from streamstores.backends._s3.outcomes import repeatable
from streamstores.errors import CorruptData
from streamstores.limits import to_microseconds
from streamstores.store import StreamInfo

_LAST_SECOND = 10**12 - 1


class ExpiryCalendar:
    """The entries of the calendar.

    An entry is written before the object that it is about, so a writer that dies between the
    two leaves nothing that no sweep would find. An entry too many costs one look.
    """

    def __init__(self, bucket: Bucket, keys: ObjectKeys, grace: float) -> None:
        self._bucket = bucket
        self._keys = keys
        self._grace = grace

    async def note_expiry(self, info: StreamInfo, due: int | None) -> int | None:
        """Ensure an entry at or before the expiry of the stream; returns its time.

        `due` is the time of the existing entry, if any. An expiry that slides does
        not move it: the sweep that finds it too early does. Costs one PUT if a new entry is
        needed.
        """
        if info.expires_at is None:
            return due
        end = min(max(math.ceil(to_microseconds(info.expires_at) / 1e6), 0), _LAST_SECOND)
        # An entry whose time has come does not count: a sweep may remove it at any moment.
        if due is not None and self._bucket.clock.seconds() < due <= end:
            return due
        await self._put(self._keys.stream_entry(end, info.id))
        return end

    async def note_rest(self, generation: str) -> None:
        """Have the segments of a generation removed after `grace` seconds; one PUT."""
        # Rounded up, so that no sweep finds the entry before the segments may go.
        seconds = math.ceil(self._bucket.clock.seconds() + self._grace) + 1
        await self._put(self._keys.rest_entry(seconds, generation))

    async def due(self, limit: int) -> list[tuple[str, CalendarEntry]]:
        """At most `limit` entries whose time has come, with their keys, the oldest first."""
        now = self._bucket.clock.seconds()
        listing = await self._bucket.list(self._keys.calendar, at_most=min(limit, 1000))
        entries: list[tuple[str, CalendarEntry]] = []
        for key in listing.keys:
            try:
                entry = self._keys.entry_of(key)
            except CorruptData:
                continue  # an object that this store did not write
            if entry.seconds > now:
                break
            entries.append((key, entry))
        return entries

    async def generations(self) -> set[str]:
        """The generations with an entry; one LIST for each 1000 entries."""
        found: set[str] = set()
        async for page in self._bucket.pages(self._keys.calendar):
            for key in page.keys:
                with suppress(CorruptData):
                    found.add(self._keys.entry_of(key).generation or "")
        return found

    async def remove(self, key: str) -> None:
        with repeatable():
            await self._bucket.delete(key)

    async def _put(self, key: str) -> None:
        with repeatable():
            await self._bucket.put(key, b"")
