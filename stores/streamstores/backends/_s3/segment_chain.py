"""Writing the next segment of a stream: S3 alone decides which writer is first."""

from __future__ import annotations

from contextlib import nullcontext, suppress

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams
from streamstores.backends._s3.outcomes import after_a_write
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.errors import OutcomeUnknown, StreamNotFound


class SegmentChain:
    """The segments of a stream, each written under the condition that its key is free."""

    def __init__(self, streams: KnownStreams) -> None:
        self._streams = streams
        self._storage = streams.storage

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

    async def _write(self, known: KnownStream, key: str, block: Block) -> float | None:
        """S3's time of the write; None if another writer's segment is there."""
        try:
            answer = await self._storage.bucket.put(
                key, block_format.encode(block), absent=True
            )
        except OutcomeUnknown as doubt:
            with after_a_write(known.info.id):
                found = await self._storage.bucket.get(key)
            if found.is_missing:
                raise doubt from None  # it may still arrive
            return self._date_if_own(known, key, block, found)
        if answer.is_written:
            return answer.date
        # Refused: by another writer's segment, or by our own, from a try without an answer.
        with after_a_write(known.info.id) if answer.in_doubt else nullcontext():
            found = await self._storage.bucket.get(key)
        return self._date_if_own(known, key, block, found)

    def _date_if_own(
        self, known: KnownStream, key: str, block: Block, answer: ObjectAnswer
    ) -> float | None:
        """S3's time if the object is our own block, from an earlier try. None if it is
        another writer's, which is then remembered as the newest segment."""
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
