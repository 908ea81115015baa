"""Stores that break clause 2: linearizable."""

from __future__ import annotations

import asyncio

from streamstores import Conflict
from tests.contract.broken.mutation import CreateOverwrites
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


class ChecksThenActs(Wrapper):
    """Checks the condition, lets other tasks run, and then appends without the condition."""

    condition: str

    async def append(self, stream_id, *chunks, **options):
        wanted = options.pop(self.condition, None)
        if wanted is not None:
            info = await self.info(stream_id)
            actual = info.tail if self.condition == "at" else info.version
            if wanted != actual:
                raise Conflict("too late", info)
            await asyncio.sleep(0)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause02-one-of-racing-appends-at-an-offset-wins")
class LetsTwoAppendsAtAnOffsetWin(ChecksThenActs):
    condition = "at"


@caught_by("clause02-one-of-racing-appends-with-a-version-wins")
class LetsTwoTakeoversWin(ChecksThenActs):
    condition = "version"


@caught_by("clause02-one-of-racing-creates-wins")
class LetsTwoCreatesWin(CreateOverwrites):
    async def create(self, stream_id, *chunks, **options):
        if stream_id in self.stored:
            return await self.inner.create(stream_id, *chunks, **options)
        await asyncio.sleep(0)
        return await super().create(stream_id, *chunks, **options)


@caught_by("clause02-a-stream-is-never-seen-half-created")
class CreatesInTwoSteps(Wrapper):
    async def create(self, stream_id, *chunks, attributes=None, state="streaming", **options):
        await self.inner.create(stream_id, **options)
        await asyncio.sleep(0)
        return await self.inner.append(stream_id, *chunks, attributes=attributes, state=state)


@caught_by("clause02-snapshots-are-consistent")
class ReadsRecordsAndInfoApart(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        await asyncio.sleep(0)
        return page._replace(info=await self.info(stream_id))


@caught_by("clause02-a-returned-mutation-is-seen-by-all")
class ServesInfoFromACache(Wrapper):
    def __init__(self):
        super().__init__()
        self.cache = {}

    async def info(self, stream_id):
        fresh = await self.inner.info(stream_id)
        old = self.cache.setdefault(stream_id, fresh)
        if fresh.version > old.version + 1:
            self.cache[stream_id] = fresh
        return self.cache[stream_id]


@caught_by("clause02-unfenced-writers-share-a-stream")
class LosesAppendsThatOverlap(Wrapper):
    """Reads, lets other tasks run, and writes what it read and the new chunks."""

    async def append(self, stream_id, *chunks, **options):
        if options.get("version") is not None or not chunks:
            return await self.inner.append(stream_id, *chunks, **options)
        stream = self.inner._streams[stream_id]
        before, ends = list(stream.chunks), list(stream.ends)
        tail = stream.info.tail
        await asyncio.sleep(0)
        stream.chunks, stream.ends = before, ends
        await self.set_info(stream.info, tail=tail)
        return await self.inner.append(stream_id, *chunks, **options)
