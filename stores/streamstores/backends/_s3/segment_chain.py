"""Writing the next segment of a stream: S3 alone decides which writer is first."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext, suppress

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams
from streamstores.backends._s3.outcomes import after_a_write, repeatable
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.errors import OutcomeUnknown, StoreUnavailable, StreamNotFound

_MOST_DOUBTS = 10_000


class SegmentChain:
    """The segments of a stream, each written under the condition that its key is free.

    A segment whose PUT got no answer may arrive later, but only as long as its key is free.
    So a look that does not find it writes a segment without a change there.
    """

    def __init__(self, streams: KnownStreams) -> None:
        self._streams = streams
        self._storage = streams.storage
        self._doubts: OrderedDict[str, tuple[KnownStream, str]] = OrderedDict()
        """By stream id: the last write that may still arrive, its stream before it and its
        key."""

    async def put(self, known: KnownStream, block: Block) -> float | None:
        """S3's time of the write; None if it did not become part of a living stream.

        Raises `StreamNotFound` if S3 took it after the stream had expired, and
        `OutcomeUnknown` if nothing that S3 says now can tell.
        """
        key = self._storage.keys.segment(known.generation, block.number)
        date = await self._write(known, key, block)
        if date is None:
            return None
        with after_a_write(known.info.id):
            if not await self._streams.is_in_chain(known, date):
                return None
            await self._check_expiry(key, block, date)
        return date

    async def close(self, known: KnownStream) -> bool:
        """Write the tombstone of an expired stream; False if another writer was first."""
        return await self.put(known, known.tombstone(self._storage.stamp())) is not None

    async def settle(self, stream_id: str) -> None:
        """Make what a write without an answer left open final, so that the next read of this
        process is not contradicted by its late arrival. No request if nothing is open.

        Raises `StoreUnavailable` if it stays open.
        """
        doubt = self._doubts.get(stream_id)
        if doubt is not None:
            with repeatable():
                await self._decide(*doubt)
            self._doubts.pop(stream_id, None)

    async def _write(self, known: KnownStream, key: str, block: Block) -> float | None:
        """S3's time of the write; None if another writer's segment is there."""
        try:
            answer = await self._storage.bucket.put(
                key, block_format.encode(block), absent=True
            )
        except OutcomeUnknown:
            return await self._write_without_answer(known, key, block)
        if answer.is_written:
            return answer.date
        # Refused: by another writer's segment, or by our own, from a try without an answer.
        with after_a_write(known.info.id) if answer.in_doubt else nullcontext():
            found = await self._storage.bucket.get(key)
        return self._date_if_own(known, key, block, found)

    async def _write_without_answer(
        self, known: KnownStream, key: str, block: Block
    ) -> float | None:
        """As `_write`, after no try got an answer; raises `StoreUnavailable` if it is now
        certain that the segment cannot arrive any more."""
        # Noted before the look: if that fails too, the next read of this process settles it.
        self._doubts[known.info.id] = (known, key)
        if len(self._doubts) > _MOST_DOUBTS:
            self._doubts.popitem(last=False)
        with after_a_write(known.info.id):
            found, is_shut_out = await self._decide(known, key)
        self._doubts.pop(known.info.id, None)
        date = self._date_if_own(known, key, block, found)
        if is_shut_out:
            raise StoreUnavailable(f"a write to stream {known.info.id!r} did not arrive")
        return date

    async def _decide(self, known: KnownStream, key: str) -> tuple[ObjectAnswer, bool]:
        """What is at the key of a segment that may still arrive; and whether it is a segment
        without a change, which was written there so that the other is refused for good."""
        bucket = self._storage.bucket
        found = await bucket.get(key)
        if not found.is_missing:
            return found, False
        fence = known.next_segment(known.info, due=known.due, stamp=self._storage.stamp())
        await bucket.put(key, block_format.encode(fence), absent=True)
        # Read whatever the answer to that PUT: the late write may have been first.
        found = await bucket.get(key)
        is_fence = found.is_found and block_format.decode(found.body, key).nonce == fence.nonce
        return found, is_fence

    def _date_if_own(
        self, known: KnownStream, key: str, block: Block, answer: ObjectAnswer
    ) -> float | None:
        """S3's time if the object is our own block, from an earlier try. None if it is
        another writer's, which is then remembered as the newest segment."""
        # What refused the write is gone again: the chain was removed meanwhile.
        if answer.is_missing:
            return None
        found = block_format.decode(answer.body, key)
        if found.nonce == block.nonce:
            return answer.date
        if self._streams.is_fresh(known, answer.date):
            with suppress(StreamNotFound):  # the next look raises it too
                self._streams.step(known, found, answer)
        return None

    async def _check_expiry(self, key: str, block: Block, date: float) -> None:
        """Raise `StreamNotFound` if the stream had expired before S3 took the segment.

        The `Date` of the answer is up to a second off and later than the write, so near the
        expiry the object is asked for its `Last-Modified`, which every reader goes by.
        """
        end = block.was_expiring_at
        if end is None or date + 2 < end.timestamp():
            return
        answer = await self._storage.bucket.get(key, last=0)
        if answer.is_found and block.is_void(answer.modified):
            self._streams.forget(block.stream_id)
            raise StreamNotFound(block.stream_id)
