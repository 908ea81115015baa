"""Stores that break clause 7: expiry."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

from streamstores import StreamNotFound
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause07-expire-leaves-the-version-alone")
class ExpireGrowsTheVersion(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        info = await self.inner.expire(stream_id, ttl, **options)
        if stream_id not in self.stored:
            return info
        return await self.set_info(info, version=info.version + 1)


@caught_by("clause07-every-mutation-slides-the-expiry")
class NeverSlides(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        return await self.set_info(info, expires_at=before.expires_at)


@caught_by("clause07-a-sliding-stream-lives-on")
class ReportsASlideThatIsNotStored(Wrapper):
    def __init__(self):
        super().__init__()
        self.ends = {}

    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(stream_id, *chunks, **options)
        if info.expires_at is not None:
            self.ends[stream_id] = info.expires_at
        return info

    async def append(self, stream_id, *chunks, **options):
        end = self.ends.get(stream_id)
        if end is not None and end <= datetime.now(timezone.utc):
            raise StreamNotFound(stream_id)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause07-mutations-do-not-move-an-absolute-expiry")
class SlidesAnAbsoluteExpiry(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if info.expires_at is not None and info.ttl is None:
            return await self.set_info(info, expires_at=info.expires_at + timedelta(seconds=1))
        return info


@caught_by("clause07-an-expired-stream-never-existed")
class ReadsExpiredStreams(Wrapper):
    def __init__(self):
        super().__init__()
        self.kept = {}

    async def expire(self, stream_id, ttl=None, **options):
        self.kept[stream_id] = await self.inner.read(stream_id)
        return await self.inner.expire(stream_id, ttl, **options)

    async def read(self, stream_id, offset=0, **options):
        try:
            return await self.inner.read(stream_id, offset, **options)
        except StreamNotFound:
            if stream_id in self.kept:
                return self.kept[stream_id]
            raise


@caught_by("clause07-expire-wakes-no-waiter")
class ExpireWakesAllWaiters(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        info = await self.inner.expire(stream_id, ttl, **options)
        self.wake.set()
        return info

    async def wait(self, stream_id, *, version, timeout):
        self.wake = asyncio.Event()
        waits = {
            asyncio.ensure_future(self.wake.wait()),
            asyncio.ensure_future(self.inner.wait(stream_id, version=version, timeout=timeout)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return await self.info(stream_id)


@caught_by("clause07-expire-replaces-the-expiry")
class CannotRemoveAnExpiry(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        if ttl is None and not options:
            return await self.info(stream_id)
        return await self.inner.expire(stream_id, ttl, **options)


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepCountsLivingStreams(Wrapper):
    async def sweep(self, *, limit=1000):
        swept = await self.inner.sweep(limit=limit)
        return swept + min(limit - swept, len(self.stored))


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepDeletesLivingStreams(Wrapper):
    async def sweep(self, *, limit=1000):
        for stream_id, stream in list(self.stored.items()):
            if stream.info.ttl is not None:
                await self.delete(stream_id)
        return await self.inner.sweep(limit=limit)


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepsMoreThanItsLimit(Wrapper):
    async def sweep(self, *, limit=1000):
        return 2 * limit if self.stored and limit < 1000 else 0
