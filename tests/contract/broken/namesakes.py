"""Stores that break clause 11: ids begin anew."""

from __future__ import annotations

from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Polls, Wrapper


@caught_by("clause11-old-versions-never-match")
class BeginsWithVersionOne(Wrapper):
    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(stream_id, *chunks, **options)
        return await self.set_info(info, version=1)


@caught_by("clause11-a-namesake-has-nothing-of-the-old-stream")
class CachesRecordsById(Wrapper):
    def __init__(self):
        super().__init__()
        self.cache = {}

    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        self.cache[stream_id] = (await self.inner.read(stream_id, max_bytes=2**40)).records
        return info

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        if offset == 0 and stream_id in self.cache:
            return page._replace(records=self.cache[stream_id])
        return page


@caught_by("clause11-a-waiter-of-the-old-stream")
class WaitsForTheNamesake(Polls):
    """Mistakes the version of the new stream for a change of the old stream."""


@caught_by("clause11-shared-records-never-reach-a-namesake")
class CachesRecordsByIdAndOffset(Wrapper):
    def __init__(self):
        super().__init__()
        self.cache = {}

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        if page.records:
            kept = self.cache.setdefault((stream_id, offset), tuple(page.records))
            page = page._replace(records=list(kept))
        return page
