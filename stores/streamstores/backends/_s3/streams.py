"""What this process knows of streams, and how it makes sure that it is still true."""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections import OrderedDict
from contextlib import suppress
from typing import NamedTuple

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block, Layout
from streamstores.backends._s3.keys import Keys
from streamstores.backends._s3.tasks import Tasks
from streamstores.backends._s3.transport import MISSING, UNCHANGED, Answer, Bucket
from streamstores.changes import Changes
from streamstores.errors import StoreUnavailable, StreamNotFound, StreamStoreError
from streamstores.store import StreamInfo

_STREAMS = 10_000  # known at a time
_CACHE_BYTES = 33_554_432
_BLOCK_OVERHEAD = 1024
_SPANS = 4096
_HOPS = 3  # segments to take one by one before the listing is asked for the newest
_ROUNDS = 5


class Moved(Exception):
    """The records are no longer there: the stream was packed, or has ended. Look again."""


class Known(NamedTuple):
    """A stream as S3 once said it was."""

    info: StreamInfo
    generation: str
    head: str
    """OPEN or SEALED."""
    etag: str
    """Of the head."""
    nonce: str
    """In the head: the block that was read with this ETag."""
    number: int
    """Of the newest segment; 0: there is only the head."""
    due: int | None
    layout: Layout | None
    proved_at: float
    """S3's time when this was true."""

    @property
    def is_final(self) -> bool:
        return self.info.state.is_final


class Streams:
    """The streams this process knows.

    `look` is the linearizable read: it asks S3 for the segment after the newest known one
    (one GET), or, of a finished stream, whether its head has changed (one GET). A stream
    that is not known costs a GET of its head, and where that is not sealed a LIST of one
    key and a GET of the newest segment.

    What S3 says of a chain of segments counts only within `grace` / 4 of the last proof
    that the chain is whole, both by S3's clock; later, the head is asked again. For segments
    may be removed `grace` seconds after their chain was closed, and a removed segment looks
    like one that was never written.
    """

    def __init__(self, bucket: Bucket, keys: Keys, changes: Changes, grace: float) -> None:
        self.cache = BlockCache()
        self.tasks = Tasks()
        self._bucket = bucket
        self._keys = keys
        self.changes = changes
        self._trust = grace / 4
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    def known(self, stream_id: str) -> Known | None:
        return self._known.get(stream_id)

    def seconds(self) -> float:
        """S3's time."""
        return self._bucket.clock.seconds()

    def has_ended(self, known: Known) -> bool:
        """Whether the stream has expired, by S3's clock."""
        end = known.info.expires_at
        return end is not None and end <= self._bucket.clock.now()

    async def living(self, stream_id: str) -> Known:
        """The stream as it is now; raises `StreamNotFound`."""
        known = await self.look(stream_id)
        if self.has_ended(known):
            raise StreamNotFound(stream_id)
        return known

    async def look(self, stream_id: str) -> Known:
        """The stream as it was at some time during this call, also where it has expired.

        Those who look at one stream at once share a look that begins after they came.
        """
        flight = self._flights.get(stream_id)
        if flight is None or flight.has_begun:
            flight = self._flights[stream_id] = _Flight(self, stream_id, flight)
        return await asyncio.shield(flight.task)

    def land(self, flight: _Flight) -> None:
        if self._flights.get(flight.stream_id) is flight:
            del self._flights[flight.stream_id]

    async def aclose(self) -> None:
        await self.tasks.aclose()

    async def look_now(self, stream_id: str) -> Known:
        known = self._known.get(stream_id)
        if known is None:
            return await self.load(stream_id)
        if known.head == blocks.SEALED or known.is_final:
            return await self.load(stream_id, since=known)
        try:
            return await self._advance(known)
        except StreamNotFound:
            return await self.load(stream_id)  # it may have been begun anew since

    async def load(self, stream_id: str, *, since: Known | None = None) -> Known:
        """The stream from its head on; `since` saves the rest where the head is the same."""
        for _ in range(_ROUNDS):
            known = await self._load(stream_id, since)
            if known is not None:
                return known
            since = None
        raise StoreUnavailable(f"stream {stream_id!r} begins anew all the time")

    async def _load(self, stream_id: str, since: Known | None) -> Known | None:
        key = self._keys.head(stream_id)
        answer = await self._bucket.get(key, unless=None if since is None else since.etag)
        if since is not None and answer.status == UNCHANGED:
            return self.learn(since._replace(proved_at=answer.date))
        head = None if answer.status == MISSING else blocks.decode(answer.body, key)
        if head is None or head.info is None:
            raise self.forget(stream_id)
        known = known_of(head, answer)
        self.cache.put(head)
        if known.head == blocks.SEALED:
            return self.learn(known)
        return await self._newest(known)

    async def _newest(self, known: Known) -> Known | None:
        """The stream at its newest segment; None where the chain is no longer whole."""
        folder = self._keys.generation(known.generation)
        listing = await self._bucket.list(folder, at_most=1)
        if not self.is_fresh(known, listing.date):
            return None
        number = self._keys.number_of(listing.keys[0]) if listing.keys else 0
        if number <= known.number:
            same = number == known.number
            return self.learn(known._replace(proved_at=listing.date)) if same else None
        answer = await self._bucket.get(listing.keys[0])
        if answer.status == MISSING:
            return None
        return self.step(known, blocks.decode(answer.body, listing.keys[0]), answer)

    async def _advance(self, known: Known) -> Known:
        stream_id = known.info.id
        for _ in range(_HOPS):
            known, block = await self.peek(known)
            if block is None:
                return known
            if known.is_final:  # its head has the last word
                return await self.load(stream_id, since=known)
        newest = await self._newest(known)
        if newest is None:
            return await self.load(stream_id)
        return await self.load(stream_id, since=newest) if newest.is_final else newest

    def is_fresh(self, known: Known, date: float) -> bool:
        """Whether an answer of this date, in S3's seconds, can speak of `known`'s chain."""
        return date - known.proved_at <= self._trust

    async def peek(self, known: Known) -> tuple[Known, Block | None]:
        """A look at the next segment only, by one GET: what a poller needs. The stream after
        it, and the segment, if there is one. Raises `StreamNotFound`."""
        key = self._keys.segment(known.generation, known.number + 1)
        answer = await self._bucket.get(key)
        if not self.is_fresh(known, answer.date):
            return await self.load(known.info.id), None
        if answer.status == MISSING:
            return self.learn(known._replace(proved_at=answer.date)), None
        block = blocks.decode(answer.body, key)
        return self.step(known, block, answer), block

    def step(self, known: Known, block: Block, answer: Answer) -> Known:
        """The stream after `block`, its next segment, was read; raises `StreamNotFound`."""
        if block.kind == blocks.TOMBSTONE or block.is_void(answer.modified):
            raise self.forget(known.info.id)
        return self.learn(after(known, block, answer.date), block)

    async def is_whole(self, known: Known, date: float) -> bool:
        """Whether a segment that S3 took at `date` belongs to a living chain."""
        if self.is_fresh(known, date):
            return True
        key = self._keys.head(known.info.id)
        answer = await self._bucket.get(key)
        if answer.status == MISSING:
            return False
        head = blocks.decode(answer.body, key)
        return head.kind == blocks.OPEN and head.generation == known.generation

    def learn(self, known: Known, block: Block | None = None) -> Known:
        """Remember, and tell the watchers what is new: `block`, or that there is something."""
        stream_id = known.info.id
        before = self._known.get(stream_id)
        if before is not None and _is_newer(before, known):
            return known
        self._known[stream_id] = known
        self._known.move_to_end(stream_id)
        if len(self._known) > _STREAMS:
            self._known.popitem(last=False)
        if block is not None:
            self.cache.put(block)
        if before is not None:
            self._publish(before, known, block)
        return known

    def _publish(self, before: Known, known: Known, block: Block | None) -> None:
        info = known.info
        if before.generation != known.generation:
            self.changes.noticed(info.id)
        elif info.version != before.info.version:
            if block is not None and block.number == before.number + 1:
                self.changes.committed(info, block.records())
            else:
                self.changes.noticed(info.id)
        elif _ends_earlier(info, before.info):
            self.changes.noticed(info.id)

    def forget(self, stream_id: str) -> StreamNotFound:
        """The stream has ended: tell the watchers; returns the error to raise."""
        if self._known.pop(stream_id, None) is not None:
            self.changes.noticed(stream_id)
        return StreamNotFound(stream_id)

    async def fetch(self, known: Known, number: int) -> Block:
        """A segment, or with 0 the head; raises `Moved` where it is not there any more."""
        block = self.cache.get(known.generation, number)
        if block is not None and (number or block.nonce == known.nonce):
            return block
        if number:
            key = self._keys.segment(known.generation, number)
        else:
            key = self._keys.head(known.info.id)
        answer = await self._bucket.get(key)
        if answer.status == MISSING:
            raise Moved
        block = blocks.decode(answer.body, key)
        if block.generation != known.generation:
            raise Moved
        self.cache.put(block)
        if not number and block.nonce != known.nonce:
            raise Moved
        return block


class _Flight:
    """One look at one stream, shared by all who came before it began."""

    def __init__(self, streams: Streams, stream_id: str, before: _Flight | None) -> None:
        self.stream_id = stream_id
        self.has_begun = False
        self.task = streams.tasks.start(self._run(streams, before))

    async def _run(self, streams: Streams, before: _Flight | None) -> Known:
        try:
            if before is not None:
                with suppress(StreamStoreError):
                    await before.task
            self.has_begun = True
            return await streams.look_now(self.stream_id)
        finally:
            streams.land(self)


class BlockCache:
    """The blocks used last, and where in their streams the others that were seen lie."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._bytes = 0
        self._spans: OrderedDict[str, list[tuple[int, int, int]]] = OrderedDict()

    def get(self, generation: str, number: int) -> Block | None:
        block = self._blocks.get((generation, number))
        if block is not None:
            self._blocks.move_to_end((generation, number))
        return block

    def put(self, block: Block) -> None:
        key = (block.generation, block.number)
        before = self._blocks.pop(key, None)
        if before is not None:
            self._bytes -= len(before.payload) + _BLOCK_OVERHEAD
        self._blocks[key] = block
        self._bytes += len(block.payload) + _BLOCK_OVERHEAD
        while self._bytes > _CACHE_BYTES and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= len(oldest.payload) + _BLOCK_OVERHEAD
        self._put_span(block)

    def _put_span(self, block: Block) -> None:
        spans = self._spans.setdefault(block.generation, [])
        self._spans.move_to_end(block.generation)
        if len(self._spans) > _STREAMS:
            self._spans.popitem(last=False)
        span = (block.number, block.start, block.end)
        if not spans or spans[-1] < span:
            spans.append(span)
        elif self._span_of(spans, block.number) is None:
            insort(spans, span)
        if len(spans) > _SPANS:
            del spans[1:-1:2]

    @staticmethod
    def _span_of(spans: list[tuple[int, int, int]], number: int) -> tuple[int, int, int] | None:
        at = bisect_right(spans, (number, -1, -1))
        return spans[at] if at < len(spans) and spans[at][0] == number else None

    def around(
        self, generation: str, offset: int
    ) -> tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]:
        """(number, start, end) of the last known block that begins at `offset` or before
        it, and of the first that begins behind it."""
        spans = self._spans.get(generation, [])
        at = bisect_right(spans, offset, key=_start_of)
        return (spans[at - 1] if at else None, spans[at] if at < len(spans) else None)


def known_of(head: Block, answer: Answer) -> Known:
    """What a head says, read or written just now."""
    assert head.info is not None
    number = head.layout.number if head.layout is not None else 0
    return Known(
        head.info,
        head.generation,
        head.kind,
        answer.etag,
        head.nonce,
        number,
        head.due,
        head.layout,
        answer.date,
    )


def after(known: Known, block: Block, date: float) -> Known:
    """The stream once `block` is its newest segment."""
    assert block.info is not None
    return known._replace(
        info=block.info,
        number=block.number,
        due=block.due,
        proved_at=max(date, known.proved_at),
    )


def _is_newer(one: Known, other: Known) -> bool:
    """Whether `one` is certainly later than `other`, of the same generation."""
    if one.generation != other.generation:
        return False
    if one.head != other.head:
        return one.head == blocks.SEALED
    return one.head == blocks.OPEN and one.number > other.number


def _ends_earlier(info: StreamInfo, before: StreamInfo) -> bool:
    if info.expires_at is None:
        return False
    return before.expires_at is None or info.expires_at < before.expires_at


def _start_of(span: tuple[int, int, int]) -> int:
    return span[1]
