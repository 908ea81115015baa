"""Stores that break clauses 2 and 5 when a stream has to be created first."""

from __future__ import annotations

import asyncio

from streamstores import StreamExists, StreamNotFound
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause02-racing-first-appends-all-land")
class LooksAndThenCreates(Wrapper):
    """Between the look and the creation another creation is overwritten."""

    async def create(self, stream_id, *chunks, **options):
        try:
            raise StreamExists(f"stream {stream_id!r} exists", await self.inner.info(stream_id))
        except StreamNotFound:
            await asyncio.sleep(0.001)
        self.inner._streams.pop(stream_id, None)
        return await self.inner.create(stream_id, *chunks, **options)


@caught_by("clause02-a-first-append-creates")
class CreatesInAppend(Wrapper):
    """Its append to a missing stream creates that without `ttl` and attributes."""

    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except StreamNotFound:
            return await self.inner.create(stream_id, *chunks)


@caught_by("clause05-a-follower-can-wait-for-its-stream")
class RemembersThatAStreamIsMissing(Wrapper):
    def __init__(self):
        super().__init__()
        self.missing = set()

    async def read(self, stream_id, offset=0, **options):
        if stream_id in self.missing:
            raise StreamNotFound(stream_id)
        try:
            return await self.inner.read(stream_id, offset, **options)
        except StreamNotFound:
            self.missing.add(stream_id)
            raise


@caught_by("clause05-a-follower-waits-for-its-stream-no-longer-than-asked")
class CreatesWhatIsRead(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        try:
            return await self.inner.read(stream_id, offset, **options)
        except StreamNotFound:
            info = await self.inner.create(stream_id, b"made up")
            return await self.inner.read(info.id, offset, **options)
