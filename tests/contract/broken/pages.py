"""Stores that break clause 3: order and bytes."""

from __future__ import annotations

from streamstores import OffsetOutOfRange, Page, Record
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause03-read-from-every-offset")
class IsOffByOneInsideARecord(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        whole = await self.inner.read(stream_id, 0, max_bytes=2**40)
        if page.records and offset not in {record.offset for record in whole.records}:
            first = page.records[0]
            page.records[0] = Record(offset, first.data[1:] + b"?")
        return page


@caught_by("clause03-read-from-every-offset")
class BeginsWithTheWholeRecord(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        for record in (await self.inner.read(stream_id, max_bytes=2**40)).records:
            if page.records and record.offset < offset < record.end:
                page.records[0] = record
        return page


@caught_by("clause03-bytes-come-back-exactly")
class StoresText(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        texts = [chunk.decode(errors="replace").encode() for chunk in chunks]
        return await self.inner.append(stream_id, *texts, **options)


@caught_by("clause03-pages-hold-whole-records-and-at-least-one")
class GivesNoRecordOverMaxBytes(Wrapper):
    async def read(self, stream_id, offset=0, *, max_bytes=1_048_576):
        page = await self.inner.read(stream_id, offset, max_bytes=max_bytes)
        if page.records and len(page.records[0].data) > max_bytes:
            return Page([], offset, page.info)
        return page


@caught_by("clause03-pages-hold-whole-records-and-at-least-one")
class CutsRecordsAtMaxBytes(Wrapper):
    async def read(self, stream_id, offset=0, *, max_bytes=1_048_576):
        page = await self.inner.read(stream_id, offset, max_bytes=max_bytes)
        if page.records and len(page.records[0].data) > max_bytes:
            cut = Record(offset, page.records[0].data[:max_bytes])
            return Page([cut], cut.end, page.info)
        return page


@caught_by("clause03-pages-hold-whole-records-and-at-least-one")
class IgnoresMaxBytes(Wrapper):
    async def read(self, stream_id, offset=0, *, max_bytes=1_048_576):
        return await self.inner.read(stream_id, offset, max_bytes=max(max_bytes, 2**30))


@caught_by("clause03-next-offset-is-the-tail-exactly-at-the-end")
class StopsOneShortOfTheTail(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        if page.records and page.next_offset == page.info.tail:
            return page._replace(next_offset=page.next_offset - 1)
        return page


@caught_by("clause03-offset-beyond-the-tail-is-out-of-range")
class ReadsNothingBeyondTheTail(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        try:
            return await self.inner.read(stream_id, offset, **options)
        except OffsetOutOfRange:
            return Page([], offset, await self.info(stream_id))


@caught_by("clause03-mutable-buffers-are-copied")
class KeepsTheCallersBuffer(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        kept = self.stored[stream_id].chunks
        for number, chunk in enumerate(reversed(chunks), 1):
            if isinstance(chunk, bytearray):
                kept[-number] = chunk
        return info

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        return page._replace(records=[Record(at, bytes(data)) for at, data in page.records])
