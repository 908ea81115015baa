"""Stores that only concurrent clients show to be wrong, for the checker of histories."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count

from streamstores import (
    Conflict,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamNotFound,
)
from tests.contract.broken.wrapper import Wrapper


class Sometimes(Wrapper):
    """A store whose fault shows at every fifth call."""

    def __init__(self):
        super().__init__()
        self._calls = count(1)

    def is_time(self):
        return next(self._calls) % 5 == 0


class AcknowledgesBeforeItCommits(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.inner.info(stream_id)
        if options or before.state != "streaming":
            return await self.inner.append(stream_id, *chunks, **options)
        late = asyncio.ensure_future(self._append_later(stream_id, chunks))
        self.late = late  # a task without a reference may be collected
        tail = before.tail + sum(map(len, chunks))
        return before._replace(tail=tail, version=before.version + 1)

    async def _append_later(self, stream_id, chunks):
        for _ in range(3):
            await asyncio.sleep(0)
        with suppress(StreamNotFound, StreamClosed):
            await self.inner.append(stream_id, *chunks)


class ReadsFromAStaleReplica(Sometimes):
    def __init__(self):
        super().__init__()
        self.pages = {}

    async def read(self, stream_id, offset=0, **options):
        if self.is_time() and (stream_id, offset) in self.pages:
            return self.pages[stream_id, offset]
        page = await self.inner.read(stream_id, offset, **options)
        self.pages[stream_id, offset] = page
        return page


class HidesThatItMayHaveApplied(Sometimes):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if self.is_time():
            raise StoreUnavailable("the answer was lost")
        return info


class RetriesAnAppendThatLanded(Sometimes):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if self.is_time() and info.state == "streaming":
            return await self.inner.append(stream_id, *chunks)
        return info


class LosesAnAcknowledgedAppend(Sometimes):
    async def append(self, stream_id, *chunks, **options):
        before = await self.inner.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        if self.is_time():
            await self.set_info(info, tail=before.tail, version=before.version)
        return info


class RaisesOutcomeUnknownFromRead(Sometimes):
    async def read(self, stream_id, offset=0, **options):
        if self.is_time():
            raise OutcomeUnknown("the connection was lost")
        return await self.inner.read(stream_id, offset, **options)


class LeaksADriversException(Sometimes):
    async def info(self, stream_id):
        if self.is_time():
            raise ConnectionResetError
        return await self.inner.info(stream_id)


class ReportsAConflictWithoutReason(Sometimes):
    async def append(self, stream_id, *chunks, **options):
        if self.is_time():
            raise Conflict("busy", await self.inner.info(stream_id))
        return await self.inner.append(stream_id, *chunks, **options)


class DeletesAfterItReturns(Wrapper):
    async def delete(self, stream_id):
        await self.inner.info(stream_id)
        asyncio.get_running_loop().call_later(0.001, self.stored.pop, stream_id, None)


class AppliesACancelledAppendInPart(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        for chunk in chunks[:-1]:
            await self.inner.append(stream_id, chunk, **options)
            options = {}
            await asyncio.sleep(0)
        return await self.inner.append(stream_id, *chunks[-1:], **options)
