"""Giving back storage: of expired streams, of packed segments, and of writers that died."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.commits import Commits
from streamstores.backends._s3.heads import Heads
from streamstores.backends._s3.keys import Due, Keys
from streamstores.backends._s3.packing import Packer, is_packed
from streamstores.backends._s3.streams import Known, Streams
from streamstores.backends._s3.transport import MISSING, Bucket
from streamstores.errors import (
    CorruptData,
    StreamNotFound,
    StreamStoreError,
)

SWEEP_SECONDS = 60.0
SCAN_SECONDS = 21_600.0
_HEADER_BYTES = 1_048_576  # 10,000 records and all attributes take a fifth of it


class Sweeper:
    """Removes what no stream needs.

    Nothing that somebody may still rely on goes: an id is freed only under the condition
    that its head is unchanged, and segments only when their head no longer needs them and
    `grace` seconds have passed since their chain was closed, by S3's clock.
    """

    def __init__(
        self,
        streams: Streams,
        bucket: Bucket,
        keys: Keys,
        calendar: Calendar,
        commits: Commits,
        heads: Heads,
        packer: Packer,
        grace: float,
    ) -> None:
        self._streams = streams
        self._bucket = bucket
        self._keys = keys
        self._calendar = calendar
        self._commits = commits
        self._heads = heads
        self._packer = packer
        self._grace = grace

    async def run(self) -> None:
        """Sweep every minute and look for orphans every six hours, till cancelled."""
        next_scan = random.uniform(0, SCAN_SECONDS)
        while True:
            pause = SWEEP_SECONDS * random.uniform(0.5, 1.5)
            await asyncio.sleep(pause)
            next_scan -= pause
            with suppress(StreamStoreError):
                await self.sweep(1000)
            if next_scan < 0:
                next_scan += SCAN_SECONDS
                with suppress(StreamStoreError):
                    await self.scan()

    async def sweep(self, limit: int) -> int:
        """End at most `limit` expired streams, of what is due; returns how many.

        One LIST; for each stream that has expired about six requests.
        """
        ended = 0
        for key, entry in await self._calendar.due(1000):
            if entry.stream_id is not None and ended == limit:
                continue
            with suppress(CorruptData):  # it stays, and stops nobody else
                is_settled, count = await self._settle(entry)
                ended += count
                if is_settled:
                    await self._calendar.strike(key)
        return ended

    async def _settle(self, entry: Due) -> tuple[bool, int]:
        """Do what an entry asks for: whether it is done with, and how many streams ended."""
        if entry.generation is not None:
            return await self.collect(entry.generation), 0
        assert entry.stream_id is not None
        return True, await self._end_if_expired(entry.stream_id)

    async def _end_if_expired(self, stream_id: str) -> int:
        try:
            known = await self._streams.look(stream_id)
        except StreamNotFound:
            return 0
        if not self._streams.has_ended(known):
            # The end has slid since: a sweep at the new one.
            await self._calendar.note_end(known.info, None)
            return 0
        return int(await self.end(known))

    async def end(self, known: Known) -> bool:
        """Remove an expired stream; False where it lives on, or somebody else removed it."""
        if not known.is_final and not await self._commits.close_chain(known):
            return False
        if not await self._heads.remove(known):
            return False
        self._streams.forget(known.info.id)
        if known.layout is not None and known.layout.key is not None:
            await self._bucket.delete(known.layout.key)
        return True

    async def scan(self) -> None:
        """Look at every generation that the calendar does not name: for orphans of writers
        that died, and for finished streams that nobody packed.

        One LIST for each 1000 generations and each 1000 entries of the calendar, one for
        each generation looked at, and some GETs where its newest segment is older than
        `grace`.
        """
        noted = await self._calendar.generations()
        for folder in (self._keys.segments, self._keys.packs):
            token = None
            while True:
                listing = await self._bucket.list(folder, by_folder=True, token=token)
                found = [each[len(folder) : -1] for each in listing.folders]
                for generation in found:
                    if generation not in noted:
                        with suppress(CorruptData):
                            await self.collect(generation)
                token = listing.next_token
                if token is None:
                    break

    async def collect(self, generation: str) -> bool:
        """Remove what the stream no longer needs of a generation; False: too early."""
        newest = await self._newest(generation)
        if newest is None:
            return True
        key, is_young = newest
        if is_young:
            return False
        answer = await self._bucket.get(key, last=_HEADER_BYTES - 1)
        if answer.status == MISSING:
            return True
        block = blocks.decode_header(answer.body, key)
        head = await self._head_of(block.stream_id)
        if head is None or head[0].generation != generation:
            await self._remove(generation, keep=None)
            return True
        return await self._tidy(head[0], head[1], block)

    async def _newest(self, generation: str) -> tuple[str, bool] | None:
        """The key of the newest object of a generation, and whether it is too young."""
        for folder in (self._keys.generation(generation), self._keys.packs_of(generation)):
            listing = await self._bucket.list(folder, at_most=1)
            if listing.keys:
                return listing.keys[0], listing.date - listing.modified[0] <= self._grace
        return None

    async def _head_of(self, stream_id: str) -> tuple[Block, str] | None:
        key = self._keys.head(stream_id)
        answer = await self._bucket.get(key)
        if answer.status == MISSING:
            return None
        return blocks.decode(answer.body, key), answer.etag

    async def _tidy(self, head: Block, etag: str, newest: Block) -> bool:
        """What a generation that its head still names can do without."""
        try:
            known = await self._streams.load(head.stream_id)
        except StreamNotFound:
            if head.kind != blocks.OPEN or newest.kind != blocks.TOMBSTONE:
                return True
            # Whoever deleted it died before the head was removed.
            match = self._open_head(head, etag)
            await self._heads.remove(match)
            return True
        if known.generation != head.generation or not known.is_final:
            return True
        if self._streams.has_ended(known):
            await self.end(known)
        elif not is_packed(known):
            await self._packer.pack(known)
        else:
            await self._remove_around(known)
        return True

    def _open_head(self, head: Block, etag: str) -> Known:
        assert head.info is not None
        return Known(
            head.info, head.generation, head.kind, etag, head.nonce, 0, None, None, 0.0
        )

    async def _remove_around(self, known: Known) -> None:
        """All of a packed stream but its packed object.

        A packed object that the head does not name may be about to be named, by a packer
        that has slept for hours: rewriting the head first makes that one fail.
        """
        assert known.layout is not None
        keep = known.layout.key
        strays = await self._keys_below(self._keys.packs_of(known.generation), keep)
        if strays:
            again = await self._heads.seal(known, known.info, known.due, known.layout)
            if again is None:
                return
        await self._remove(known.generation, keep=keep)

    async def _remove(self, generation: str, *, keep: str | None) -> None:
        """Delete the objects of a generation; the newest segment, which may be a tombstone,
        last: what is left of a chain must not look alive."""
        strays = await self._keys_below(self._keys.packs_of(generation), keep)
        segments = await self._keys_below(self._keys.generation(generation), None)
        await self._bucket.delete_all(strays + segments[1:])
        await self._bucket.delete_all(segments[:1])

    async def _keys_below(self, folder: str, keep: str | None) -> list[str]:
        keys: list[str] = []
        token = None
        while True:
            listing = await self._bucket.list(folder, token=token)
            keys += [key for key in listing.keys if key != keep]
            token = listing.next_token
            if token is None:
                return keys
