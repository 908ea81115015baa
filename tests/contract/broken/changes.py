"""Stores that declare `"changes"` and break what that promises."""

from __future__ import annotations

import asyncio
from typing import Any

from streamstores import Conflict, MemoryStreamStore, Page, Record, StreamInfo
from streamstores.changes import Changes
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


class SharingWrapper(Wrapper):
    """Keeps the contract with its option: delegates the changes of its memory store."""

    capabilities = MemoryStreamStore.capabilities

    @property
    def changes(self) -> Any:
        return self.inner.changes


class Teller(Wrapper):
    """Tells a `Changes` of its own, as its methods below say, what its inner store commits."""

    capabilities = MemoryStreamStore.capabilities

    def __init__(self):
        super().__init__()
        self.changes = Changes()

    async def append(self, stream_id, *chunks, **options):
        tail = (await self.info(stream_id)).tail
        info = await self.inner.append(stream_id, *chunks, **options)
        records = (await self.inner.read(stream_id, tail)).records
        self.tell(info, records)
        return info

    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(stream_id, *chunks, **options)
        self.changes.noticed(stream_id)
        return info

    async def delete(self, stream_id):
        await self.inner.delete(stream_id)
        self.changes.noticed(stream_id)

    async def expire(self, stream_id, ttl=None, **options):
        info = await self.inner.expire(stream_id, ttl, **options)
        self.changes.noticed(stream_id)
        return info

    def tell(self, info: StreamInfo, records: list[Record]) -> None:
        self.changes.committed(info, records)

    async def aclose(self):
        self.changes.close()
        await super().aclose()


@caught_by("clause05-changes-are-declared-and-offered")
class ForgetsToDelegateItsChanges(Wrapper):
    capabilities = MemoryStreamStore.capabilities


@caught_by("clause05-changes-are-declared-and-offered")
class MakesItsChangesAnew(SharingWrapper):
    @property
    def changes(self):
        return Changes()


@caught_by("clause05-a-commit-is-told-before-it-returns")
class WithholdsItsCommits(Teller):
    def tell(self, info, records):
        pass


@caught_by("clause05-a-commit-is-told-before-it-returns")
class RenamesItsStreams(SharingWrapper):
    """A wrapper that keeps tenants apart by a prefix and delegates the changes, which it must
    not: its followers would hear of another tenant's stream."""

    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(f"tenant/{stream_id}", *chunks, **options)
        return info._replace(id=stream_id)

    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(f"tenant/{stream_id}", *chunks, **options)
        return info._replace(id=stream_id)


@caught_by("clause05-a-commit-is-told-before-it-returns")
class WithholdsHeartbeats(Teller):
    def tell(self, info, records):
        if records or info.state != "streaming":
            super().tell(info, records)


@caught_by("clause05-a-commit-is-told-before-it-returns")
class TellsAfterItReturned(Teller):
    def tell(self, info, records):
        asyncio.get_running_loop().call_soon(super().tell, info, records)


@caught_by("clause05-an-end-is-noticed-before-it-returns")
class DeletesWithoutNotice(Teller):
    async def delete(self, stream_id):
        await self.inner.delete(stream_id)


@caught_by("clause05-an-end-is-noticed-before-it-returns")
class BeginsAnewWithoutNotice(Teller):
    async def create(self, stream_id, *chunks, **options):
        return await self.inner.create(stream_id, *chunks, **options)


@caught_by("clause05-what-is-told-is-what-is-stored")
class ShowsOtherBytesThanItTells(SharingWrapper):
    """An encrypting wrapper that delegates the changes, which it must not."""

    async def append(self, stream_id, *chunks, **options):
        hidden = [bytes(each ^ 42 for each in chunk) for chunk in chunks]
        return await self.inner.append(stream_id, *hidden, **options)

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        records = [
            Record(offset, bytes(each ^ 42 for each in data)) for offset, data in page.records
        ]
        return Page(records, page.next_offset, page.info)


@caught_by("clause05-what-is-told-is-what-is-stored")
class TellsAnOlderInfo(Teller):
    def tell(self, info, records):
        super().tell(info._replace(attributes={}), records)


@caught_by("clause05-what-is-told-is-what-is-stored")
class TellsOnlyTheFirstRecord(Teller):
    def tell(self, info, records):
        super().tell(info, records[:1])


@caught_by("clause05-a-refused-mutation-is-not-told")
class TellsOfAppendsThatItRefuses(Teller):
    async def append(self, stream_id, *chunks, **options):
        try:
            return await super().append(stream_id, *chunks, **options)
        except Conflict as exc:
            size = sum(map(len, chunks))
            info = exc.info._replace(version=exc.info.version + 1, tail=exc.info.tail + size)
            self.tell(info, [])
            raise


@caught_by("clause05-of-racing-commits-only-the-winner-is-told")
class TellsBeforeItCommits(Teller):
    """So the loser of a race has reported a commit that did not happen."""

    async def append(self, stream_id, *chunks, **options):
        info = await self.info(stream_id)
        size = sum(map(len, chunks))
        version = options.get("version", info.version) + 1
        self.tell(info._replace(version=version, tail=info.tail + size), [])
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause05-closing-the-store-closes-its-changes")
class LeavesItsChangesOpen(Teller):
    async def aclose(self):
        await self.inner.aclose()
