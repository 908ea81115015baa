"""Stores that break clause 8: limits and names."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from fnmatch import fnmatchcase

from streamstores import Limits
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause08-record-bytes")
class AcceptsOversizedRecords(Wrapper):
    def __init__(self):
        super().__init__()
        self.limits = replace(Limits(), record_bytes=1000)


@caught_by("clause08-attributes-bytes")
class CountsCharactersOfAttributes(Wrapper):
    def __init__(self):
        super().__init__()
        self.limits = Limits()
        self.inner.limits = replace(Limits(), attributes_bytes=10**9)

    async def append(self, stream_id, *chunks, **options):
        attributes = options.get("attributes") or {}
        assert sum(len(key + value) for key, value in attributes.items()) <= 16_384
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause08-record-bytes")
class AppliesPartOfARefusedAppend(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if len(chunks) > 1 and len(chunks[1]) > self.limits.record_bytes:
            await self.inner.append(stream_id, chunks[0])
        return await self.inner.append(stream_id, *chunks, **options)


class Renames(Wrapper):
    """Keeps each stream under a changed id."""

    def name(self, stream_id: str) -> str:
        raise NotImplementedError

    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(self.name(stream_id), *chunks, **options)
        return info._replace(id=stream_id)

    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(self.name(stream_id), *chunks, **options)
        return info._replace(id=stream_id)

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(self.name(stream_id), offset, **options)
        return page._replace(info=page.info._replace(id=stream_id))


@caught_by("clause08-ids-are-opaque")
class FoldsCase(Renames):
    def name(self, stream_id):
        return stream_id.casefold()


@caught_by("clause08-ids-are-opaque")
class NormalizesIds(Renames):
    def name(self, stream_id):
        return unicodedata.normalize("NFC", stream_id)


@caught_by("clause08-ids-are-opaque")
class StripsBlanks(Renames):
    def name(self, stream_id):
        return stream_id.rstrip()


@caught_by("clause08-deleting-one-id-leaves-the-others")
class DeletesByPattern(Wrapper):
    async def delete(self, stream_id):
        await self.inner.info(stream_id)
        for each in list(self.stored):
            if each == stream_id or fnmatchcase(each, stream_id):
                await self.inner.delete(each)


@caught_by("clause08-list-by-prefix")
class ListsByLike(Wrapper):
    async def list(self, prefix=""):
        pattern = prefix.replace("_", "?").replace("%", "*") + "*"
        async for info in self.inner.list():
            if fnmatchcase(info.id, pattern):
                yield info


@caught_by("clause08-list-omits-deleted-and-expired-streams")
class ListsDeletedStreams(Wrapper):
    def __init__(self):
        super().__init__()
        self.dead = []

    async def delete(self, stream_id):
        self.dead.append(await self.info(stream_id))
        await self.inner.delete(stream_id)

    async def list(self, prefix=""):
        async for info in self.inner.list(prefix):
            yield info
        for info in self.dead:
            yield info
