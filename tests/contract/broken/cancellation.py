"""Stores that break clause 9: cancellation and closing."""

from __future__ import annotations

import asyncio

from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Polls, Wrapper


@caught_by("clause09-a-cancelled-append-is-whole-or-nothing")
class AppendsChunkByChunk(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        for chunk in chunks[:-1]:
            await self.inner.append(stream_id, chunk)
            await asyncio.sleep(0)
        return await self.inner.append(stream_id, *chunks[-1:], **options)


@caught_by("clause09-a-storm-of-cancelled-appends")
class LeaksTheLockOfACancelledCall(Wrapper):
    def __init__(self):
        super().__init__()
        self.lock = asyncio.Lock()

    async def append(self, stream_id, *chunks, **options):
        await self.lock.acquire()
        await asyncio.sleep(0)
        info = await self.inner.append(stream_id, *chunks, **options)
        self.lock.release()
        return info


@caught_by("clause09-a-storm-of-cancelled-reads")
class LeaksTheConnectionOfACancelledRead(Wrapper):
    def __init__(self):
        super().__init__()
        self.pool = asyncio.Semaphore(5)

    async def read(self, stream_id, offset=0, **options):
        await self.pool.acquire()
        await asyncio.sleep(0)
        page = await self.inner.read(stream_id, offset, **options)
        self.pool.release()
        return page


@caught_by("clause09-waiters-learn-of-the-close")
class LeavesItsWaitersWaiting(Polls):
    async def info(self, stream_id):
        return self.stored[stream_id].info

    async def aclose(self):
        """Leaves the waiters alone."""


@caught_by("clause09-calls-after-close-are-refused")
class WorksAfterItsClose(Wrapper):
    async def aclose(self):
        """Does nothing."""


@caught_by("clause09-close-leaves-no-task-behind")
class LeavesATaskBehind(Wrapper):
    async def __aenter__(self):
        self.task = asyncio.ensure_future(asyncio.sleep(1000))
        return self
