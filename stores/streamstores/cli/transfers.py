"""Streams that are brought from a source into a store: resumable, and verified.

A stream that is not whole yet has only the attribute `UNFINISHED` in the target, so no program
takes it for the stream that it will be. Its real attributes and its state come with its last
records, in one step.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, Protocol

from streamstores._time_limits import in_time
from streamstores._writer.attempts import Attempts
from streamstores.errors import (
    Conflict,
    CorruptData,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.store import Page, State, StreamInfo, StreamStore
from streamstores.writer import StreamWriter

__all__ = ["UNFINISHED", "Outcome", "Source", "Transfer", "Transferred"]

UNFINISHED = {"streamstores-copy": "unfinished"}
"""The attributes of a stream of which the target does not have everything yet."""

_PAGE_BYTES = 4_194_304
_FLUSH_SECONDS = 5.0  # after Ctrl-C, for the append in flight


class Source(Protocol):
    """Where streams come from: the part of a store that only reads."""

    async def info(self, stream_id: str) -> StreamInfo: ...

    async def read(self, stream_id: str, offset: int = 0, *, max_bytes: int = ...) -> Page: ...


class Outcome(str, Enum):
    """What a transfer did to a stream of the target."""

    COPIED = "copied"
    CONTINUED = "continued"
    UNCHANGED = "unchanged"


class Transferred(NamedTuple):
    """A stream that the target now has, as the source had it at one moment."""

    outcome: Outcome
    source: StreamInfo
    written_bytes: int


class Transfer:
    """Brings streams from a source into a store, one at a time or several at once.

    `on_bytes` is called with the number of bytes that a stream has come forward, of which some
    may have been there before.
    """

    def __init__(
        self,
        source: Source,
        target: StreamStore,
        *,
        retry_for: float = 30.0,
        on_bytes: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._source = source
        self._target = target
        self._retry_for = retry_for
        self._on_bytes = on_bytes

    async def bring(self, stream_id: str) -> Transferred:
        """Make the target's stream equal to the source's, and read it again to compare.

        Its bytes, records, state, error, attributes and expiry are kept, but a ttl begins
        anew. What an earlier transfer has brought is compared and not written again. A source
        that is still streaming is brought as far as it is.

        Raises `Conflict` if the target has another stream of this id, `StreamNotFound` if the
        source has none, and `CorruptData` if the target does not give back what was written.
        Tries again for `retry_for` seconds if a store is away. Costs two reads of every byte.
        """
        attempts = Attempts(self._retry_for)
        while True:
            try:
                return await self._bring_once(stream_id)
            except (StoreUnavailable, OutcomeUnknown) as exc:
                # Safe, because each attempt begins with what the target has by then.
                await attempts.pause(exc)

    async def _bring_once(self, stream_id: str) -> Transferred:
        """Begin, or go on with what the target has; see `bring`."""
        existing = await _info_or_none(self._target, stream_id)
        if existing is None:
            page = await self._source.read(stream_id, max_bytes=_PAGE_BYTES)
            if self._fits_one_step(page):
                return await self._create_whole(page)
            existing = await self._begin(page.info)
            return await self._go_on(page.info, existing, Outcome.COPIED)
        first = await self._source.info(stream_id)
        if await self._is_beginning(first, existing):
            return await self._go_on(first, existing, Outcome.CONTINUED)
        if existing.attributes == UNFINISHED:
            # Of an earlier stream that had this id in the source.
            await self._target.delete(stream_id)
            return await self._bring_once(stream_id)
        raise Conflict(f"the target has another stream {stream_id!r}", existing)

    def _fits_one_step(self, page: Page) -> bool:
        limits = self._target.limits
        return (
            page.next_offset == page.info.tail
            and page.info.state is not State.ERROR  # whose reason `create` does not take
            and page.info.tail <= limits.append_bytes
            and len(page.records) <= limits.append_records
            and all(len(record.data) <= limits.record_bytes for record in page.records)
        )

    async def _create_whole(self, page: Page) -> Transferred:
        """Create a stream with all that it has, in one step, and read it again."""
        info = page.info
        await self._target.create(
            info.id,
            *(record.data for record in page.records),
            ttl=info.ttl,
            expires_at=None if info.ttl else info.expires_at,
            attributes=info.attributes,
            state=info.state,
        )
        data = b"".join(record.data for record in page.records)
        await self._verify(info, 0, hashlib.sha256(data).digest())
        self._on_bytes(info.tail)
        return Transferred(Outcome.COPIED, info, info.tail)

    async def _begin(self, info: StreamInfo) -> StreamInfo:
        expires_at = None if info.ttl else info.expires_at
        return await self._target.create(
            info.id, ttl=info.ttl, expires_at=expires_at, attributes=UNFINISHED
        )

    async def _is_beginning(self, source: StreamInfo, target: StreamInfo) -> bool:
        """Whether the target's stream is one that could become the source's."""
        if target.tail > source.tail:
            return False
        # Every stream begins with nothing, so the attributes have to tell.
        if not target.tail and target.attributes not in (UNFINISHED, source.attributes):
            return False
        if target.state.is_final and not _is_same(source, target):
            return False
        ours, theirs = await asyncio.gather(
            _digest(self._source, source, 0, target.tail),
            _digest(self._target, target, 0, target.tail),
        )
        return ours == theirs

    async def _go_on(
        self, first: StreamInfo, existing: StreamInfo, outcome: Outcome
    ) -> Transferred:
        """Write what the target lacks of a stream whose beginning it has."""
        self._on_bytes(existing.tail)
        source = await self._source.info(first.id)
        _check_same_stream(source, first)
        if _is_same(source, existing):
            return Transferred(Outcome.UNCHANGED, source, 0)
        if existing.state.is_final:
            raise Conflict(f"stream {first.id!r} is {existing.state} in the target", existing)
        if existing.state is State.STOPPED:
            existing = await self._target.append(
                first.id, state=State.STREAMING, version=existing.version
            )
        try:
            source, digest = await self._write_rest(first, existing)
        except StreamNotFound:
            if existing.attributes == UNFINISHED:
                with suppress(StreamStoreError):
                    await self._target.delete(first.id)
            raise
        await self._verify(source, existing.tail, digest)
        return Transferred(outcome, source, source.tail - existing.tail)

    async def _write_rest(
        self, first: StreamInfo, existing: StreamInfo
    ) -> tuple[StreamInfo, bytes]:
        """Write from the target's tail on; the source's info at the end, and the digest."""
        writer = StreamWriter(
            self._target,
            first.id,
            info=existing,
            linger=0,
            max_buffer_bytes=_PAGE_BYTES,
            retry_for=self._retry_for,
        )
        try:
            source, digest = await self._write_pages(writer, first, existing.tail)
            state = None if source.state is State.STREAMING else source.state
            await writer.aclose(state, error=source.error, attributes=source.attributes)
        except asyncio.CancelledError:
            with suppress(Exception):
                await in_time(writer.flush(), _FLUSH_SECONDS)
            await writer.abort()
            raise
        except BaseException:
            await writer.abort()
            raise
        return source, digest

    async def _write_pages(
        self, writer: StreamWriter, first: StreamInfo, offset: int
    ) -> tuple[StreamInfo, bytes]:
        """Write up to the tail that the source has by then; its info, and the digest."""
        digest = hashlib.sha256()
        while True:
            page = await self._source.read(first.id, offset, max_bytes=_PAGE_BYTES)
            _check_same_stream(page.info, first)
            for record in page.records:
                digest.update(record.data)
                await writer.write(record.data)
            self._on_bytes(page.next_offset - offset)
            offset = page.next_offset
            if offset == page.info.tail:
                return page.info, digest.digest()

    async def _verify(self, source: StreamInfo, offset: int, digest: bytes) -> None:
        """Compare what the target gives back. Raises `CorruptData`, or `Conflict` if another
        program has changed the stream since."""
        what = f"stream {source.id!r} does not have the bytes that were written"
        try:
            page = await self._target.read(source.id, offset, max_bytes=_PAGE_BYTES)
            found = await self._digest_after(page, offset, source.tail)
        except OffsetOutOfRange as exc:
            raise CorruptData(what) from exc
        if found != digest:
            raise CorruptData(what)
        if not _is_same(source, page.info):
            raise Conflict(f"stream {source.id!r} was changed in the target", page.info)

    async def _digest_after(self, page: Page, offset: int, end: int) -> bytes:
        """That of the bytes in `[offset, end)`, whose first page was read already."""
        digest = hashlib.sha256()
        digest.update(b"".join(record.data for record in page.records)[: end - offset])
        async for data in _pieces(self._target, page.info, page.next_offset, end):
            digest.update(data)
        return digest.digest()


async def _info_or_none(store: StreamStore, stream_id: str) -> StreamInfo | None:
    try:
        return await store.info(stream_id)
    except StreamNotFound:
        return None


def _is_same(source: StreamInfo, target: StreamInfo) -> bool:
    """Whether all that is kept is equal, apart from the bytes themselves and the expiry."""
    return (source.tail, source.state, source.error, dict(source.attributes)) == (
        target.tail,
        target.state,
        target.error,
        dict(target.attributes),
    )


def _check_same_stream(info: StreamInfo, first: StreamInfo) -> None:
    if info.created_at != first.created_at:
        raise StreamNotFound(first.id)


async def _digest(side: Source, info: StreamInfo, offset: int, end: int) -> bytes:
    """The SHA-256 of the bytes in `[offset, end)`."""
    digest = hashlib.sha256()
    async for data in _pieces(side, info, offset, end):
        digest.update(data)
    return digest.digest()


async def _pieces(
    side: Source, info: StreamInfo, offset: int, end: int
) -> AsyncIterator[bytes]:
    while offset < end:
        page = await side.read(info.id, offset, max_bytes=min(_PAGE_BYTES, end - offset))
        _check_same_stream(page.info, info)
        data = b"".join(record.data for record in page.records)[: end - offset]
        yield data
        offset += len(data)
