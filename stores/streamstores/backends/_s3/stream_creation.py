"""Creating a stream: one PUT of its head, which may replace that of a stream that is gone."""

from __future__ import annotations

from contextlib import suppress

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, known_from_head
from streamstores.backends._s3.object_keys import new_generation
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.backends._s3.segment_chain import SegmentChain
from streamstores.backends._s3.stream_heads import StreamHeads
from streamstores.errors import (
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import StreamInfo


class StreamCreator:
    """Writes the heads of new streams."""

    def __init__(self, streams: KnownStreams, chain: SegmentChain, heads: StreamHeads) -> None:
        self._streams = streams
        self._storage = streams.storage
        self._chain = chain
        self._heads = heads

    async def create(self, info: StreamInfo, chunks: tuple[bytes, ...]) -> KnownStream:
        """Write the head, with the first records in it; raises `StreamExists`.

        One PUT, and another for the calendar if the stream expires; three to seven requests
        more if the id was used before.
        """
        # Before the head, so that a creator that dies in between leaves no stream for good.
        due = await self._storage.calendar.note_expiry(info, None)
        head = Block.open_head(
            info, new_generation(), chunks, due=due, stamp=self._storage.stamp()
        )
        match = None
        rounds = self._storage.rounds(info.id)
        while True:
            await rounds.begin()
            written = await self._heads.put(head, match=match, absent=match is None)
            if written is not None:
                return self._remember(head, *written)
            match, replaces = await self._head_to_replace(info.id)
            head = head._replace(replaces=replaces)

    def _remember(self, head: Block, etag: str, date: float) -> KnownStream:
        self._streams.cache.put(head)  # a read of the first records needs no request
        return self._streams.remember(known_from_head(head, ObjectAnswer.found(etag, date)))

    async def _head_to_replace(self, stream_id: str) -> tuple[str | None, str]:
        """The ETag and the nonce of the head of a stream that is gone, which may be replaced;
        no ETag if there is no head. Raises `StreamExists` if the stream is alive.

        The chain of an expired stream is closed first, so that an append in flight and the
        new stream cannot both succeed.
        """
        key = self._storage.keys.head(stream_id)
        answer = await self._storage.bucket.get(key)
        if answer.is_missing:
            return None, ""
        head = block_format.decode(answer.body, key)
        if head.kind == block_format.VACANT:
            return answer.etag, head.nonce
        try:
            known = await self._streams.load(stream_id)
        except StreamNotFound:
            # Its chain is closed: only a head with another ETag could name a living stream.
            await self._note_rest(head.generation)
            return answer.etag, head.nonce
        if not self._streams.has_expired(known):
            raise StreamExists(f"stream {stream_id!r} exists", known.info)
        if known.is_final or await self._chain.close(known):
            await self._note_rest(known.generation)
            return known.etag, known.nonce
        return None, ""  # another writer was first, and so will be in the next round

    async def _note_rest(self, generation: str) -> None:
        with suppress(StoreUnavailable):  # a sweep finds it without the entry
            await self._storage.calendar.note_rest(generation)
