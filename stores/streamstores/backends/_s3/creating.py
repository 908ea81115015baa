"""Beginning a stream: one PUT of its head, and the right to replace the head of a dead one."""

from __future__ import annotations

from contextlib import suppress

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.commits import Commits
from streamstores.backends._s3.heads import Heads
from streamstores.backends._s3.keys import Keys, new_generation
from streamstores.backends._s3.streams import Known, Streams, known_of
from streamstores.backends._s3.transport import FOUND, MISSING, Answer, Bucket
from streamstores.errors import (
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import StreamInfo


class Creator:
    def __init__(
        self,
        streams: Streams,
        bucket: Bucket,
        keys: Keys,
        calendar: Calendar,
        commits: Commits,
        heads: Heads,
    ) -> None:
        self._streams = streams
        self._bucket = bucket
        self._keys = keys
        self._calendar = calendar
        self._commits = commits
        self._heads = heads

    async def create(self, info: StreamInfo, chunks: tuple[bytes, ...]) -> Known:
        """Write the head, with the first records in it; raises `StreamExists`.

        One PUT, and one for the calendar where the stream expires; three to seven requests
        more where the id was used before.
        """
        due = await self._calendar.note_end(info, None)
        head = Block(
            blocks.OPEN,
            info.id,
            new_generation(),
            0,
            0,
            self._heads.nonce(),
            info,
            None,
            due,
            None,
            self._streams.seconds(),
            tuple(map(len, chunks)),
            b"".join(chunks),
        )
        match = None
        while True:
            written = await self._heads.put(head, match=match, absent=match is None)
            if written is not None:
                return self._begun(head, *written)
            match = await self._free(info.id)

    def _begun(self, head: Block, etag: str, date: float) -> Known:
        self._streams.cache.put(head)
        return self._streams.learn(known_of(head, Answer(FOUND, date, etag)))

    async def _free(self, stream_id: str) -> str | None:
        """The ETag of a dead stream's head, which may be replaced; None: there is no head.

        Raises `StreamExists` where the stream lives.
        """
        key = self._keys.head(stream_id)
        answer = await self._bucket.get(key)
        if answer.status == MISSING:
            return None
        head = blocks.decode(answer.body, key)
        if head.kind == blocks.VACANT:
            return answer.etag
        try:
            known = await self._streams.load(stream_id)
        except StreamNotFound:
            # Its chain is closed: only a head with another ETag could name a living one.
            await self._note_rest(head.generation)
            return answer.etag
        if not self._streams.has_ended(known):
            raise StreamExists(f"stream {stream_id!r} exists", known.info)
        if not known.is_final and not await self._commits.close_chain(known):
            return await self._free(stream_id)
        await self._note_rest(known.generation)
        return known.etag

    async def _note_rest(self, generation: str) -> None:
        with suppress(StoreUnavailable, OutcomeUnknown):  # a scan finds it
            await self._calendar.note_rest(generation)
