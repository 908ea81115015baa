"""Changes of a stream's head, each under the condition that it is as it was read."""

from __future__ import annotations

from contextlib import suppress

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block, Layout
from streamstores.backends._s3.change_requests import Expire, expiring
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, RecordsMoved
from streamstores.backends._s3.outcomes import after_a_write
from streamstores.errors import OutcomeUnknown, StoreUnavailable
from streamstores.store import StreamInfo


class StreamHeads:
    """The heads: what names a stream and, once it has finished, holds its state."""

    def __init__(self, streams: KnownStreams) -> None:
        self._streams = streams
        self._storage = streams.storage

    async def put(
        self, head: Block, *, match: str | None = None, absent: bool = False
    ) -> tuple[str, float] | None:
        """The ETag and S3's time of the write; None if another writer was first.

        Raises `OutcomeUnknown` if the head may have been written and replaced since.
        """
        bucket, key = self._storage.bucket, self._storage.keys.head(head.stream_id)
        try:
            answer = await bucket.put(
                key, block_format.encode(head), match=match, absent=absent
            )
        except OutcomeUnknown:
            pass
        else:
            if answer.is_written:
                return answer.etag, answer.date
            if not answer.in_doubt:
                return None
        return await self._written_without_answer(head, key)

    async def _written_without_answer(self, head: Block, key: str) -> tuple[str, float] | None:
        """As `put`, after a try without an answer, by what is at the key now."""
        bucket = self._storage.bucket
        with after_a_write(head.stream_id):
            found = await bucket.get(key)
        if found.is_found:
            there = block_format.decode(found.body, key)
            if there.nonce == head.nonce:
                return found.etag, found.date
            if head.replaces and there.replaces == head.replaces:
                return None  # another writer replaced the head that was read
        raise OutcomeUnknown(f"the write to stream {head.stream_id!r} got no answer")

    async def remove(self, known: KnownStream) -> bool:
        """Free the id if the head is still `known`'s; False if another caller was first.

        What the stream leaves behind is noted in the calendar.
        """
        key = self._storage.keys.head(known.info.id)
        # The entry comes first: once the head is gone, nothing else names the generation.
        with suppress(StoreUnavailable):  # a sweep finds it without the entry
            await self._storage.calendar.note_rest(known.generation)
        if not self._storage.bucket.traits.removes_conditionally:
            head = Block.vacant_head(known.info.id, known.nonce, self._storage.stamp())
            return await self.put(head, match=known.etag) is not None
        answer = await self._storage.bucket.delete(key, match=known.etag)
        if answer.in_doubt and answer.is_refused:
            raise OutcomeUnknown(f"the removal of stream {known.info.id!r} got no answer")
        # Missing after a try without an answer: that try removed it, or a racing deletion.
        return answer.is_written or (answer.is_missing and answer.in_doubt)

    async def expire(self, known: KnownStream, request: Expire) -> StreamInfo:
        """Change when a finished stream expires; raises `StreamNotFound`."""
        rounds = self._storage.rounds(known.info.id)
        while True:
            await rounds.begin()
            info = expiring(known.info, request, self._storage.clock.now())
            if info is known.info:
                return info
            due = await self._storage.calendar.note_expiry(info, known.due)
            new = await self.seal(known, info, due)
            if new is not None:
                return new.info
            known = await self._streams.living(info.id)

    async def seal(
        self, known: KnownStream, info: StreamInfo, due: int | None
    ) -> KnownStream | None:
        """Make the head of a finished stream hold `info`; None if the head has changed."""
        try:
            head = await self._streams.fetch(known, 0)
        except RecordsMoved:
            return None
        layout = known.layout or Layout(known.number)
        stamp = self._storage.stamp()
        return await self.replace(known, head.sealed(info, layout, due=due, stamp=stamp))

    async def replace(self, known: KnownStream, head: Block) -> KnownStream | None:
        """The stream with its head replaced by a sealed head; None if another was first."""
        written = await self.put(head, match=known.etag)
        if written is None:
            return None
        assert head.info is not None
        assert head.layout is not None
        etag, date = written
        self._streams.cache.put(head)
        return self._streams.remember(
            known._replace(
                info=head.info,
                head=head.kind,
                etag=etag,
                nonce=head.nonce,
                number=head.layout.number,
                due=head.due,
                layout=head.layout,
                proved_at=date,
            )
        )

    async def delete(self, known: KnownStream) -> None:
        """Delete a finished stream; raises `StreamNotFound`."""
        rounds = self._storage.rounds(known.info.id)
        await rounds.begin()
        while not await self.remove(known):
            await rounds.begin()
            known = await self._streams.living(known.info.id)
        self._streams.forget(known.info.id)
        if known.pack_key is not None:
            with suppress(StoreUnavailable, OutcomeUnknown):  # a sweep removes it otherwise
                await self._storage.bucket.delete(known.pack_key)
