"""Giving back storage: of expired streams, of packed segments, and of writers that died."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from streamstores import observation
from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, known_from_head
from streamstores.backends._s3.object_keys import CalendarEntry
from streamstores.backends._s3.outcomes import repeatable
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.backends._s3.segment_chain import SegmentChain
from streamstores.backends._s3.stream_heads import StreamHeads
from streamstores.backends._s3.stream_packer import StreamPacker, is_packed
from streamstores.errors import (
    CorruptData,
    StreamNotFound,
    StreamStoreError,
)

SWEEP_SECONDS = 60.0
ORPHAN_SWEEP_SECONDS = 21_600.0
_HEADER_BYTES = 1_048_576  # 10,000 records and all attributes take a fifth of it


class ObjectSweeper:
    """Removes the objects that no stream needs.

    Nothing goes that a process may still rely on: an id is freed only under the condition
    that its head is unchanged, and segments are removed only when their head no longer needs
    them and `grace` seconds have passed since their chain was closed, by S3's clock.
    """

    def __init__(
        self,
        streams: KnownStreams,
        chain: SegmentChain,
        heads: StreamHeads,
        packer: StreamPacker,
    ) -> None:
        self._streams = streams
        self._storage = streams.storage
        self._chain = chain
        self._heads = heads
        self._packer = packer

    async def sweep_until_cancelled(self) -> None:
        """Sweep every minute, and look for orphans every six hours."""
        # At random, so that processes that were started together do not scan together.
        next_orphan_sweep = random.uniform(0, ORPHAN_SWEEP_SECONDS)
        while True:
            pause = SWEEP_SECONDS * random.uniform(0.5, 1.5)
            await asyncio.sleep(pause)
            next_orphan_sweep -= pause
            with suppress(StreamStoreError):
                await self.sweep(1000)
            if next_orphan_sweep < 0:
                next_orphan_sweep += ORPHAN_SWEEP_SECONDS
                with suppress(StreamStoreError):
                    await self.sweep_orphans()

    async def sweep(self, limit: int) -> int:
        """Remove at most `limit` expired streams, of what is due; returns how many.

        One LIST, and about six requests for each stream that has expired.
        """
        removed = 0
        # More than `limit` are read, as entries of generations do not count.
        for key, entry in await self._storage.calendar.due(1000):
            if entry.stream_id is not None and removed == limit:
                continue
            with repeatable(), suppress(CorruptData):  # it stays, and holds up nothing else
                is_settled, count = await self._settle(entry)
                removed += count
                if is_settled:
                    await self._storage.calendar.remove(key)
        if observation.observer is not None:
            observation.observer.swept("s3", removed)
        return removed

    async def _settle(self, entry: CalendarEntry) -> tuple[bool, int]:
        """Do what an entry asks for: whether it is settled, and how many streams were
        removed."""
        if entry.generation is not None:
            return await self.sweep_generation(entry.generation), 0
        assert entry.stream_id is not None
        return True, await self._remove_if_expired(entry.stream_id)

    async def _remove_if_expired(self, stream_id: str) -> int:
        try:
            known = await self._streams.look(stream_id)
        except StreamNotFound:
            return 0
        if not self._streams.has_expired(known):
            # The expiry has slid since: have the stream checked at the new one.
            await self._storage.calendar.note_expiry(known.info, None)
            return 0
        return int(await self._remove_expired(known))

    async def _remove_expired(self, known: KnownStream) -> bool:
        """Remove an expired stream; False if it lives on, or another process removed it."""
        # The chain first, then the head, then the object: whichever step a crash cuts off, the
        # next sweep finds what is left.
        if not known.is_final and not await self._chain.close(known):
            return False
        if not await self._heads.remove(known):
            return False
        self._streams.forget(known.info.id)
        if known.pack_key is not None:
            await self._storage.bucket.delete(known.pack_key)
        return True

    async def sweep_orphans(self) -> None:
        """Check every generation without an entry in the calendar: for what killed writers
        left, and for finished streams that were never packed.

        A LIST for each 1000 generations and each 1000 entries of the calendar, another for
        each generation checked, and some GETs if its newest segment is older than `grace`.
        """
        noted = await self._storage.calendar.generations()
        for folder in (self._storage.keys.segments, self._storage.keys.packs):
            async for page in self._storage.bucket.pages(folder, by_folder=True):
                for generation in (each[len(folder) : -1] for each in page.folders):
                    if generation not in noted:
                        with repeatable(), suppress(CorruptData):
                            await self.sweep_generation(generation)

    async def sweep_generation(self, generation: str) -> bool:
        """Remove what the stream no longer needs of a generation; False if it is too early."""
        newest = await self._newest_object(generation)
        if newest is None:
            return True
        key, is_young = newest
        if is_young:  # a process that looked before may still be reading the segments
            return False
        answer = await self._storage.bucket.get(key, last=_HEADER_BYTES - 1)
        if answer.is_missing:
            return True
        block = block_format.decode_header(answer.body, key)
        head = await self._head_of(block.stream_id)
        # No head will ever name this generation again, because each creation has a new name for
        # its own.
        if head is None or head[0].generation != generation:
            await self._remove_objects(generation, keep=None)
            return True
        await self._sweep_named_generation(*head, block)
        return True

    async def _newest_object(self, generation: str) -> tuple[str, bool] | None:
        """The key of the newest object of a generation, and whether it is too young."""
        bucket, keys = self._storage.bucket, self._storage.keys
        for folder in (keys.generation(generation), keys.packs_of(generation)):
            listing = await bucket.list(folder, at_most=1)
            if listing.keys:
                age = listing.date - listing.modified[0]
                return listing.keys[0], age <= self._storage.grace
        return None

    async def _head_of(self, stream_id: str) -> tuple[Block, ObjectAnswer] | None:
        key = self._storage.keys.head(stream_id)
        answer = await self._storage.bucket.get(key)
        if answer.is_missing:
            return None
        return block_format.decode(answer.body, key), answer

    async def _sweep_named_generation(
        self, head: Block, answer: ObjectAnswer, newest: Block
    ) -> None:
        """Remove what a generation that its head still names can do without."""
        try:
            known = await self._streams.load(head.stream_id)
        except StreamNotFound:
            if head.kind == block_format.OPEN and newest.kind == block_format.TOMBSTONE:
                # The process that deleted it died before it removed the head.
                await self._heads.remove(known_from_head(head, answer))
            return
        if known.generation != head.generation or not known.is_final:
            return
        if self._streams.has_expired(known):
            await self._remove_expired(known)
        elif not is_packed(known):
            await self._packer.pack(known)
        else:
            await self._remove_around(known)

    async def _remove_around(self, known: KnownStream) -> None:
        """Remove all objects of a packed stream but its packed object.

        A packer that has slept for hours may be about to make the head name a packed object
        that it does not name now. Rewriting the head first makes that packer fail.
        """
        keep = known.pack_key
        strays = await self._keys_below(self._storage.keys.packs_of(known.generation), keep)
        if strays and await self._heads.seal(known, known.info, known.due) is None:
            return
        await self._remove_objects(known.generation, keep=keep)

    async def _remove_objects(self, generation: str, *, keep: str | None) -> None:
        """Delete the objects of a generation. The newest segment, which may be a tombstone,
        goes last: what is left of a chain must not look alive."""
        bucket, keys = self._storage.bucket, self._storage.keys
        strays = await self._keys_below(keys.packs_of(generation), keep)
        segments = await self._keys_below(keys.generation(generation), None)
        await bucket.delete_all(strays + segments[1:])
        await bucket.delete_all(segments[:1])

    async def _keys_below(self, folder: str, keep: str | None) -> list[str]:
        found: list[str] = []
        async for page in self._storage.bucket.pages(folder):
            found += [key for key in page.keys if key != keep]
        return found
