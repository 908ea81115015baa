"""What this process knows of streams, and how it verifies that it is still true."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.background_tasks import BackgroundTasks, result_of
from streamstores.backends._s3.block_cache import BlockCache
from streamstores.backends._s3.block_format import Block, Layout, Stamp
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.backends._s3.storage import Storage
from streamstores.changes import Changes
from streamstores.errors import StoreUnavailable, StreamNotFound, StreamStoreError
from streamstores.store import StreamInfo

_STREAMS = 10_000  # remembered at a time
_HOPS = 3  # segments to read one by one before a listing is asked for the newest
_ROUNDS = 5


class RecordsMoved(Exception):
    """The records have moved: the stream was packed, or is gone. Load it again."""


class KnownStream(NamedTuple):
    """A stream as S3 once said it was."""

    info: StreamInfo
    generation: str
    head: str
    """OPEN or SEALED."""
    etag: str
    """Of the head."""
    nonce: str
    """Of the block that was the head when it had this ETag."""
    number: int
    """Of the newest segment; 0 if there is only the head."""
    due: int | None
    layout: Layout | None
    proved_at: float
    """S3's time when this was true."""

    @property
    def is_final(self) -> bool:
        return self.info.state.is_final

    @property
    def pack_key(self) -> str | None:
        """The key of the packed object, if any."""
        return None if self.layout is None else self.layout.key

    def next_segment(
        self,
        info: StreamInfo,
        chunks: Sequence[bytes] = (),
        *,
        due: int | None,
        stamp: Stamp,
        kind: str = block_format.SEGMENT,
    ) -> Block:
        """The segment that turns the stream into what `info` says."""
        return Block(
            kind=kind,
            stream_id=info.id,
            generation=self.generation,
            number=self.number + 1,
            start=self.info.tail,
            nonce=stamp.nonce,
            info=info,
            was_expiring_at=self.info.expires_at,
            due=due,
            written_at=stamp.written_at,
            lengths=tuple(map(len, chunks)),
            payload=b"".join(chunks),
        )

    def tombstone(self, stamp: Stamp) -> Block:
        """The segment that ends the chain of an expired stream. It names no expiry, as it is
        not void for coming after that."""
        tombstone = self.next_segment(
            self.info, due=None, stamp=stamp, kind=block_format.TOMBSTONE
        )
        return tombstone._replace(was_expiring_at=None)

    def after(self, block: Block, date: float) -> KnownStream:
        """The stream once `block` is its newest segment."""
        assert block.info is not None
        return self._replace(
            info=block.info,
            number=block.number,
            due=block.due,
            proved_at=max(date, self.proved_at),
        )


class KnownStreams:
    """The streams this process knows.

    `look` is the linearizable read. It asks S3 for the segment after the newest known
    segment (one GET), or, for a finished stream, whether its head has changed (one GET). A
    stream that is not known costs a GET of its head, and unless that is sealed, a LIST of one
    key and a GET of the newest segment.

    What S3 says about a chain of segments counts only within `grace` / 4 of the last proof
    that the chain is whole, both by S3's clock. After that the head is read again. The
    reason: segments may be removed `grace` seconds after their chain was closed, and a
    removed segment looks as if it had never been written.
    """

    def __init__(self, storage: Storage, changes: Changes) -> None:
        self.storage = storage
        self.changes = changes
        self.cache = BlockCache()
        self._tasks = BackgroundTasks()
        self._trust = storage.grace / 4
        self._known: OrderedDict[str, KnownStream] = OrderedDict()
        self._looks: dict[str, _SharedLook] = {}

    def known(self, stream_id: str) -> KnownStream | None:
        return self._known.get(stream_id)

    def has_expired(self, known: KnownStream) -> bool:
        """Whether the stream has expired, by S3's clock."""
        end = known.info.expires_at
        return end is not None and end <= self.storage.clock.now()

    async def living(self, stream_id: str) -> KnownStream:
        """The stream as it is now; raises `StreamNotFound`."""
        known = await self.look(stream_id)
        if self.has_expired(known):
            raise StreamNotFound(stream_id)
        return known

    async def look(self, stream_id: str) -> KnownStream:
        """The stream as it was at some time during this call, even if it has expired.

        Concurrent callers share one look, which begins after each of them has called.
        """
        shared = self._looks.get(stream_id)
        if shared is None or shared.has_begun:
            shared = self._looks[stream_id] = _SharedLook(shared)
            shared.task = self._tasks.start(self._share(stream_id, shared))
        assert shared.task is not None
        return await result_of(shared.task, StoreUnavailable("the store was closed"))

    async def _share(self, stream_id: str, shared: _SharedLook) -> KnownStream:
        try:
            await shared.wait_for_its_turn()
            return await self._look_now(stream_id)
        finally:
            if self._looks.get(stream_id) is shared:
                del self._looks[stream_id]

    async def aclose(self, seconds: float) -> None:
        await self._tasks.aclose(seconds)

    async def _look_now(self, stream_id: str) -> KnownStream:
        known = self._known.get(stream_id)
        if known is None:
            return await self.load(stream_id)
        # No segment follows a final state, so only the head can have changed.
        if known.head == block_format.SEALED or known.is_final:
            return await self.load(stream_id, since=known)
        try:
            return await self._advance(known)
        except StreamNotFound:
            return await self.load(stream_id)  # it may have been created again since

    async def load(self, stream_id: str, *, since: KnownStream | None = None) -> KnownStream:
        """The stream from its head on; `since` saves the rest if the head is unchanged."""
        for _ in range(_ROUNDS):
            known = await self._load(stream_id, since)
            if known is not None:
                return known
            since = None
        raise StoreUnavailable(f"stream {stream_id!r} is created again all the time")

    async def _load(self, stream_id: str, since: KnownStream | None) -> KnownStream | None:
        """As `load`, in one try; None if the chain was replaced while it was read."""
        key = self.storage.keys.head(stream_id)
        answer = await self.storage.bucket.get(
            key, unless=None if since is None else since.etag
        )
        if since is not None and answer.is_unchanged:
            return self.remember(since._replace(proved_at=answer.date))
        head = None if answer.is_missing else block_format.decode(answer.body, key)
        if head is None or head.info is None:
            self.forget(stream_id)
            raise StreamNotFound(stream_id)
        known = known_from_head(head, answer)
        self.cache.put(head)
        if known.head == block_format.SEALED:
            return self.remember(known)
        return await self._at_newest_segment(known)

    async def _at_newest_segment(self, known: KnownStream) -> KnownStream | None:
        """The stream at its newest segment; None if the chain is no longer whole."""
        bucket, keys = self.storage.bucket, self.storage.keys
        listing = await bucket.list(keys.generation(known.generation), at_most=1)
        # No segment, or a gap in front of it, proves nothing if the chain may have been removed
        # since its head was read.
        if not self.is_fresh(known, listing.date):
            return None
        number = keys.number_of(listing.keys[0]) if listing.keys else 0
        # Fewer segments than are known mean that the chain is being removed.
        if number <= known.number:
            same = number == known.number
            return self.remember(known._replace(proved_at=listing.date)) if same else None
        answer = await bucket.get(listing.keys[0])
        if answer.is_missing:  # removed since it was listed
            return None
        return self.step(known, block_format.decode(answer.body, listing.keys[0]), answer)

    async def _advance(self, known: KnownStream) -> KnownStream:
        """The stream after the segments that follow `known`; raises `StreamNotFound`."""
        stream_id = known.info.id
        for _ in range(_HOPS):
            known, block = await self.peek(known)
            if block is None:
                return known
            if known.is_final:  # from here on its head decides
                return await self.load(stream_id, since=known)
        return await self._jump(known)

    async def jump(self, stream_id: str) -> KnownStream:
        """As `look`, by one LIST and one GET, however far the stream has grown meanwhile.

        For a writer that others outrun: reading the segments between, one after another, it
        would be too late again.
        """
        known = self._known.get(stream_id)
        if known is None or known.head == block_format.SEALED or known.is_final:
            return await self.look(stream_id)
        try:
            return await self._jump(known)
        except StreamNotFound:
            return await self.load(stream_id)  # it may have been created again since

    async def _jump(self, known: KnownStream) -> KnownStream:
        newest = await self._at_newest_segment(known)
        if newest is None:
            return await self.load(known.info.id)
        return await self.load(known.info.id, since=newest) if newest.is_final else newest

    def is_fresh(self, known: KnownStream, date: float) -> bool:
        """Whether an answer of this date, in S3's seconds, can speak of `known`'s chain."""
        return date - known.proved_at <= self._trust

    async def peek(self, known: KnownStream) -> tuple[KnownStream, Block | None]:
        """Look at the next segment only, by one GET: what a poller needs.

        Returns the stream after it, and the segment if it exists. Raises
        `StreamNotFound`.
        """
        key = self.storage.keys.segment(known.generation, known.number + 1)
        answer = await self.storage.bucket.get(key)
        if not self.is_fresh(known, answer.date):
            return await self.load(known.info.id), None
        if answer.is_missing:
            return self.remember(known._replace(proved_at=answer.date)), None
        block = block_format.decode(answer.body, key)
        return self.step(known, block, answer), block

    def step(self, known: KnownStream, block: Block, answer: ObjectAnswer) -> KnownStream:
        """The stream after its next segment, `block`, was read; raises `StreamNotFound`."""
        if block.kind == block_format.TOMBSTONE or block.is_void(answer.modified):
            self.forget(known.info.id)
            raise StreamNotFound(known.info.id)
        return self.remember(known.after(block, answer.date), block)

    async def is_in_chain(self, known: KnownStream, date: float) -> bool:
        """Whether a segment that S3 took at `date` belongs to a living chain."""
        if self.is_fresh(known, date):
            return True
        # While the PUT was on its way, the chain may have been closed and removed. Then its key
        # was free again, and the segment belongs to no stream.
        key = self.storage.keys.head(known.info.id)
        answer = await self.storage.bucket.get(key)
        if answer.is_missing:
            return False
        head = block_format.decode(answer.body, key)
        return head.kind == block_format.OPEN and head.generation == known.generation

    def remember(self, known: KnownStream, block: Block | None = None) -> KnownStream:
        """Keep what was learned and wake the subscribers if it is news to them. `block` is
        the newest segment, if it was read or written just now."""
        stream_id = known.info.id
        before = self._known.get(stream_id)
        # Looks and commits overlap, so that an older answer may arrive after a newer one.
        if before is not None and _is_older(known, before):
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

    def _publish(self, before: KnownStream, known: KnownStream, block: Block | None) -> None:
        info = known.info
        if before.generation != known.generation:
            self.changes.noticed(info.id)
        elif info.version != before.info.version:
            # Records can be handed on only if the subscribers have those before them.
            if block is not None and block.number == before.number + 1:
                self.changes.committed(info, block.records())
            else:
                self.changes.noticed(info.id)
        elif _expires_earlier(info, before.info):
            self.changes.noticed(info.id)

    def forget(self, stream_id: str) -> None:
        """The stream is gone: wake its subscribers."""
        if self._known.pop(stream_id, None) is not None:
            self.changes.noticed(stream_id)

    async def fetch(self, known: KnownStream, number: int) -> Block:
        """A segment, or with 0 the head; raises `RecordsMoved` if it is gone or replaced."""
        block = self.cache.get(known.generation, number)
        if block is not None and (number or block.nonce == known.nonce):
            return block
        keys = self.storage.keys
        key = keys.segment(known.generation, number) if number else keys.head(known.info.id)
        answer = await self.storage.bucket.get(key)
        if answer.is_missing:
            raise RecordsMoved
        block = block_format.decode(answer.body, key)
        if block.generation != known.generation:
            raise RecordsMoved
        self.cache.put(block)
        # A head of the same generation but another PUT: its records have been packed since.
        if not number and block.nonce != known.nonce:
            raise RecordsMoved
        return block


class _SharedLook:
    """A look at one stream, shared by all that call before it begins."""

    def __init__(self, before: _SharedLook | None) -> None:
        self.has_begun = False
        self.task: asyncio.Task[KnownStream] | None = None
        self._before = before

    async def wait_for_its_turn(self) -> None:
        """Wait for the look before: two at once would cost twice, for nothing."""
        if self._before is not None and self._before.task is not None:
            with suppress(StreamStoreError):
                await self._before.task
        self._before = None
        self.has_begun = True


def known_from_head(head: Block, answer: ObjectAnswer) -> KnownStream:
    """The stream by its head alone, which was read or written just now."""
    assert head.info is not None
    return KnownStream(
        info=head.info,
        generation=head.generation,
        head=head.kind,
        etag=answer.etag,
        nonce=head.nonce,
        number=head.layout.number if head.layout is not None else 0,
        due=head.due,
        layout=head.layout,
        proved_at=answer.date,
    )


def _is_older(known: KnownStream, other: KnownStream) -> bool:
    """Whether `known` is certainly older than `other`, of the same generation."""
    if known.generation != other.generation:
        return False
    if known.head != other.head:
        return other.head == block_format.SEALED
    return other.head == block_format.OPEN and other.number > known.number


def _expires_earlier(info: StreamInfo, before: StreamInfo) -> bool:
    if info.expires_at is None:
        return False
    return before.expires_at is None or info.expires_at < before.expires_at
