"""Stores that break the contract on purpose, each in one way, and the check that must see it.

`Wrapper` keeps the contract and passes everything on to a memory store. It shows followers no
table of waiters, so that what they see comes through `read` and `wait`, faults and all.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from streamstores import (
    Conflict,
    Limits,
    MemoryStreamStore,
    OffsetOutOfRange,
    Page,
    Record,
    State,
    StreamClosed,
    StreamInfo,
    StreamNotFound,
)


class Broken(NamedTuple):
    make_store: Callable[[], Any]
    caught_by: str


BROKEN: dict[str, Broken] = {}


def caught_by(check_id: str) -> Callable[[type], type]:
    """Register the class as a broken store that this check must fail."""

    def register(store: type) -> type:
        BROKEN[store.__name__] = Broken(store, check_id)
        return store

    return register


class Wrapper:
    capabilities = MemoryStreamStore.capabilities

    def __init__(self) -> None:
        self.inner = MemoryStreamStore()
        self.limits = self.inner.limits

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.create(stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.append(stream_id, *chunks, **options)

    async def mark_done(
        self, stream_id: str, state: Any = State.DONE, *, error: Any = None, version: Any = None
    ) -> StreamInfo:
        if state == "streaming":
            return await self.inner.mark_done(stream_id, state)  # refuses
        return await self.append(stream_id, state=state, error=error, version=version)

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Page:
        return await self.inner.read(stream_id, offset, **options)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        return await self.inner.wait(stream_id, version=version, timeout=timeout)

    async def info(self, stream_id: str) -> StreamInfo:
        return await self.inner.info(stream_id)

    async def expire(self, stream_id: str, ttl: Any = None, **options: Any) -> StreamInfo:
        return await self.inner.expire(stream_id, ttl, **options)

    async def delete(self, stream_id: str) -> None:
        await self.inner.delete(stream_id)

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        return self.inner.list(prefix)

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self.inner.sweep(limit=limit)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def set_info(self, info: StreamInfo, **changes: Any) -> StreamInfo:
        """Change a living stream behind the contract's back."""
        stream = self.inner._streams[info.id]
        stream.info = stream.info._replace(**changes)
        return stream.info


# ---- clause 1: one mutation primitive


@caught_by("clause01-append-makes-each-chunk-a-record")
class DropsTheLastOfThreeChunks(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        kept = chunks[:-1] if len(chunks) == 3 else chunks
        return await self.inner.append(stream_id, *kept, **options)


@caught_by("clause01-append-makes-each-chunk-a-record")
class JoinsTheChunksOfAnAppend(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        joined = (b"".join(chunks),) if chunks and all(chunks) else chunks
        return await self.inner.append(stream_id, *joined, **options)


@caught_by("clause01-repeated-append-does-not-land-twice")
class AppendsAgainAfterAConflict(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except Conflict:
            options.update(at=None, version=None)
            return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-last-word-is-one-change-to-a-waiter")
class SaysTheLastWordInTwoSteps(Wrapper):
    async def append(self, stream_id, *chunks, state=None, error=None, **options):
        if not chunks or state is None:
            return await self.inner.append(
                stream_id, *chunks, state=state, error=error, **options
            )
        await self.inner.append(stream_id, *chunks, **options)
        await asyncio.sleep(0)
        return await self.inner.append(stream_id, state=state, error=error)


@caught_by("clause01-version-grows-with-every-mutation")
class KeepsTheVersionWhenAttributesChange(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        if options.get("attributes") is not None and not chunks and info.state is before.state:
            return await self.set_info(info, version=before.version)
        return info


@caught_by("clause01-append-of-nothing-is-a-heartbeat")
class IgnoresHeartbeats(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if not chunks and not options:
            return await self.info(stream_id)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-attributes-are-replaced-as-a-whole")
class MergesAttributes(Wrapper):
    async def append(self, stream_id, *chunks, attributes=None, **options):
        if isinstance(attributes, dict):
            attributes = {**(await self.info(stream_id)).attributes, **attributes}
        return await self.inner.append(stream_id, *chunks, attributes=attributes, **options)


@caught_by("clause01-attributes-are-not-shared-with-the-caller")
class KeepsTheCallersDict(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if options.get("attributes"):
            return await self.set_info(info, attributes=options["attributes"])
        return info


@caught_by("clause01-attributes-keep-any-text")
class CutsAttributesAtNul(Wrapper):
    async def create(self, stream_id, *chunks, attributes=None, **options):
        cut = {key: value.split("\x00")[0] for key, value in (attributes or {}).items()}
        return await self.inner.create(stream_id, *chunks, attributes=cut, **options)


@caught_by("clause01-error-text-is-kept")
class LosesTheError(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        return await self.set_info(info, error=None)


@caught_by("clause01-create-refuses-a-living-id")
class CreateOverwrites(Wrapper):
    async def create(self, stream_id, *chunks, **options):
        if stream_id in self.inner._streams:
            await self.delete(stream_id)
        return await self.inner.create(stream_id, *chunks, **options)


@caught_by("clause01-missing-stream-is-not-found")
class AppendCreates(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if stream_id not in self.inner._streams:
            await self.create(stream_id)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-order-of-refusals")
class SeesTheConflictBeforeTheEnd(Wrapper):
    async def append(self, stream_id, *chunks, at=None, **options):
        info = await self.info(stream_id)
        if at is not None and at != info.tail:
            raise Conflict("too early", info)
        return await self.inner.append(stream_id, *chunks, at=at, **options)


@caught_by("clause01-refused-append-changes-nothing")
class SlidesTheEndBeforeItRefuses(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.info(stream_id)
        if info.ttl is not None:
            await self.expire(stream_id, info.ttl)
        return await self.inner.append(stream_id, *chunks, **options)


# ---- clause 2: linearizable


class ChecksThenActs(Wrapper):
    """Asks first, lets others run, and then writes without a condition."""

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
        if stream_id in self.inner._streams:
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


# ---- clause 3: order and bytes


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
        kept = self.inner._streams[stream_id].chunks
        for number, chunk in enumerate(reversed(chunks), 1):
            if isinstance(chunk, bytearray):
                kept[-number] = chunk
        return info

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        return page._replace(records=[Record(at, bytes(data)) for at, data in page.records])


# ---- clause 4: waiting


class Polls(Wrapper):
    """Asks every `pause` seconds whether `is_news` says that something changed."""

    pause = 0.01

    def is_news(self, before: StreamInfo, now: StreamInfo) -> bool:
        return now.version != before.version

    async def wait(self, stream_id, *, version, timeout):
        before = await self.inner.wait(stream_id, version=version, timeout=0)
        deadline = asyncio.get_running_loop().time() + timeout
        while before.version == version and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(min(self.pause, timeout))
            now = await self.info(stream_id)
            if self.is_news(before, now):
                return now
        return before


@caught_by("clause04-wakes-on-append")
class ForgetsToWake(Polls):
    pause = 1000.0


@caught_by("clause04-wakes-on-append")
class WakesAtThePollOnly(Polls):
    pause = 5.0


@caught_by("clause04-wakes-on-attributes")
class SleepsThroughAttributes(Polls):
    def is_news(self, before, now):
        return (now.tail, now.state) != (before.tail, before.state)


@caught_by("clause04-wakes-on-change-of-state")
class SleepsThroughStates(Polls):
    def is_news(self, before, now):
        return (now.tail, now.attributes) != (before.tail, before.attributes)


@caught_by("clause04-no-change-is-slept-through")
class ListensTooLate(Wrapper):
    async def wait(self, stream_id, *, version, timeout):
        info = await self.inner.wait(stream_id, version=version, timeout=0)
        if info.version != version or timeout == 0:
            return info
        await asyncio.sleep(0)  # what happens here is missed
        now = await self.info(stream_id)
        return await self.inner.wait(stream_id, version=now.version, timeout=timeout)


@caught_by("clause04-wait-raises-when-the-stream-is-deleted")
class WaitsForTheDeleted(Polls):
    async def wait(self, stream_id, *, version, timeout):
        before = await self.info(stream_id)
        try:
            return await super().wait(stream_id, version=version, timeout=timeout)
        except StreamNotFound:
            return before


@caught_by("clause04-returns-the-info-at-timeout")
class RaisesAtTheTimeout(Wrapper):
    async def wait(self, stream_id, *, version, timeout):
        info = await self.inner.wait(stream_id, version=version, timeout=timeout)
        if info.version == version:
            raise asyncio.TimeoutError
        return info


# ---- clause 5: following


@caught_by("clause05-a-vanished-stream-never-looks-finished")
class ShowsTheVanishedAsFinished(Wrapper):
    def __init__(self):
        super().__init__()
        self.seen = {}

    async def read(self, stream_id, offset=0, **options):
        try:
            page = await self.inner.read(stream_id, offset, **options)
        except StreamNotFound:
            if stream_id not in self.seen:
                raise
            info = self.seen[stream_id]
            return Page([], offset, info._replace(state=State.DONE, version=info.version + 1))
        self.seen[stream_id] = page.info
        return page

    async def wait(self, stream_id, *, version, timeout):
        try:
            return await self.inner.wait(stream_id, version=version, timeout=timeout)
        except StreamNotFound:
            return (await self.read(stream_id)).info


@caught_by("clause05-heartbeats-prove-life")
class HidesHeartbeats(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        is_heartbeat = not chunks and not options
        return await self.set_info(info, version=before.version) if is_heartbeat else info


# ---- clause 6: states


@caught_by("clause06-a-stopped-stream-stays-stopped")
class ResurrectsTheStopped(Wrapper):
    async def append(self, stream_id, *chunks, state=None, **options):
        if (await self.info(stream_id)).state is State.STOPPED and state is None:
            state = State.STREAMING
        return await self.inner.append(stream_id, *chunks, state=state, **options)


@caught_by("clause06-stop-racing-append")
class WritesBackTheStateItRead(Wrapper):
    async def append(self, stream_id, *chunks, state=None, **options):
        before = await self.info(stream_id)
        if before.state is not State.STREAMING or not chunks:
            return await self.inner.append(stream_id, *chunks, state=state, **options)
        await asyncio.sleep(0)
        await self.set_info(before, state=before.state)
        return await self.inner.append(stream_id, *chunks, state=state, **options)


@caught_by("clause06-repeating-an-end-is-a-no-op")
class CountsARepeatedEnd(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        if info.version == before.version:
            return await self.set_info(info, version=info.version + 1)
        return info


@caught_by("clause06-repeating-an-end-is-a-no-op")
class RefusesARepeatedEnd(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        if before.state is not State.STREAMING and options.get("state") == before.state:
            raise StreamClosed("already", before)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause06-reopening-needs-the-right-version")
class ReopensForAnybody(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if options.get("state") == "streaming":
            options.pop("version", None)
        return await self.inner.append(stream_id, *chunks, **options)


# ---- clause 7: expiry


@caught_by("clause07-expire-leaves-the-version-alone")
class ExpireGrowsTheVersion(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        info = await self.inner.expire(stream_id, ttl, **options)
        if stream_id not in self.inner._streams:
            return info
        return await self.set_info(info, version=info.version + 1)


@caught_by("clause07-every-mutation-slides-the-end")
class NeverSlides(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        return await self.set_info(info, expires_at=before.expires_at)


@caught_by("clause07-a-sliding-stream-lives-on")
class OnlySaysThatItSlides(Wrapper):
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


@caught_by("clause07-mutations-do-not-move-an-absolute-end")
class SlidesAnAbsoluteEnd(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if info.expires_at is not None and info.ttl is None:
            return await self.set_info(info, expires_at=info.expires_at + timedelta(seconds=1))
        return info


@caught_by("clause07-an-expired-stream-never-existed")
class ShowsTheExpiredUntilTheSweep(Wrapper):
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


@caught_by("clause07-expire-wakes-nobody")
class ExpireWakesEverybody(Wrapper):
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


@caught_by("clause07-expire-changes-the-end")
class ExpireCannotKeep(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        if ttl is None and not options:
            return await self.info(stream_id)
        return await self.inner.expire(stream_id, ttl, **options)


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepCountsTheLiving(Wrapper):
    async def sweep(self, *, limit=1000):
        swept = await self.inner.sweep(limit=limit)
        return swept + min(limit - swept, len(self.inner._streams))


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepTakesTheLiving(Wrapper):
    async def sweep(self, *, limit=1000):
        for stream_id, stream in list(self.inner._streams.items()):
            if stream.info.ttl is not None:
                await self.delete(stream_id)
        return await self.inner.sweep(limit=limit)


@caught_by("clause07-sweep-removes-only-what-expired")
class SweepsMoreThanItsLimit(Wrapper):
    async def sweep(self, *, limit=1000):
        return 2 * limit if self.inner._streams and limit < 1000 else 0


# ---- clause 8: limits and names


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
class KeepsWhatWasGoodOfARefusedAppend(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if len(chunks) > 1 and len(chunks[1]) > self.limits.record_bytes:
            await self.inner.append(stream_id, chunks[0])
        return await self.inner.append(stream_id, *chunks, **options)


class Renames(Wrapper):
    """Files streams under a changed id."""

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
        for each in list(self.inner._streams):
            if each == stream_id or fnmatchcase(each, stream_id):
                await self.inner.delete(each)


@caught_by("clause08-list-by-prefix")
class ListsByLike(Wrapper):
    async def list(self, prefix=""):
        pattern = prefix.replace("_", "?").replace("%", "*") + "*"
        async for info in self.inner.list():
            if fnmatchcase(info.id, pattern):
                yield info


@caught_by("clause08-list-shows-only-the-living")
class ListsTheDeleted(Wrapper):
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


# ---- clause 9: cancellation and closing


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
        return self.inner._streams[stream_id].info

    async def aclose(self):
        """Lets them be."""


@caught_by("clause09-calls-after-close-are-refused")
class WorksAfterItsClose(Wrapper):
    async def aclose(self):
        """Does nothing."""


@caught_by("clause09-close-leaves-no-task-behind")
class LeavesATaskBehind(Wrapper):
    async def __aenter__(self):
        self.task = asyncio.ensure_future(asyncio.sleep(1000))
        return self


# ---- clause 10: many processes


@caught_by("clause10-two-stores-append-to-one-stream")
class OnlySaysItIsForManyProcesses(Wrapper):
    capabilities = Wrapper.capabilities | {"multi_process"}


# ---- clause 11: ids begin anew


@caught_by("clause11-old-versions-never-match")
class BeginsWithVersionOne(Wrapper):
    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(stream_id, *chunks, **options)
        return await self.set_info(info, version=1)


@caught_by("clause11-a-namesake-has-nothing-of-the-old-stream")
class ServesRecordsOfTheOldStream(Wrapper):
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
class WaitsOnForTheNamesake(Polls):
    """Takes the new stream's version for a change of the old one."""


@caught_by("clause11-shared-records-never-reach-a-namesake")
class ReadsTheOldStreamsRecordsByOffset(Wrapper):
    def __init__(self):
        super().__init__()
        self.cache = {}

    async def read(self, stream_id, offset=0, **options):
        page = await self.inner.read(stream_id, offset, **options)
        if page.records:
            kept = self.cache.setdefault((stream_id, offset), tuple(page.records))
            page = page._replace(records=list(kept))
        return page
