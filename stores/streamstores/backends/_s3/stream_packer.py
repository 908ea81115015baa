"""Packing a finished stream into one object, safe against races and against a crash midway.

First the calendar is told to remove the segments later. Then the packed object is written
under a key of its own. Then the head is replaced, under the condition that it is still as it
was read. A reader finds the segments before the replacement and the packed object
after it; the segments stay `grace` seconds longer for readers that looked before. A packer
that dies leaves either a stream in segments, which the next reader packs, or an object that
no head names, which a sweep removes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block, Layout
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, RecordsMoved
from streamstores.backends._s3.packed_object import PackedObject
from streamstores.backends._s3.record_pages import all_blocks
from streamstores.backends._s3.stream_heads import StreamHeads
from streamstores.errors import CorruptData, OutcomeUnknown, StoreUnavailable, StreamStoreError

INLINE_BYTES = 65_536
"""A finished stream up to this size is kept in its head: one GET replays it."""

ABANDONED_SECONDS = 30.0
"""After this time the writer that finished a stream is no longer expected to pack it."""


def is_packed(known: KnownStream) -> bool:
    layout = known.layout
    # A head without segments holds all records itself.
    return layout is not None and (layout.number == 0 or layout.key is not None)


class StreamPacker:
    """Packs finished streams, one at a time, in the background."""

    def __init__(self, streams: KnownStreams, heads: StreamHeads) -> None:
        self._streams = streams
        self._storage = streams.storage
        self._heads = heads
        # One at a time, because packing reads whole streams into memory.
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def pack_soon(self, stream_id: str) -> None:
        """Pack a stream that has just finished; a failure is left to later readers."""
        if stream_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._look_and_pack(stream_id))
            self._tasks[stream_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(stream_id, None))

    def pack_if_abandoned(self, known: KnownStream) -> None:
        """Pack what a reader found unpacked, unless its writer may still be about to."""
        number = 0 if known.head == block_format.SEALED else known.number
        newest = self._streams.cache.get(known.generation, number)
        written_at = newest.written_at if newest is not None else 0
        age = self._storage.clock.seconds() - written_at
        if known.is_final and not is_packed(known) and age > ABANDONED_SECONDS:
            self.pack_soon(known.info.id)

    async def idle(self) -> None:
        """Wait until nothing is being packed."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def aclose(self, patience: float) -> None:
        """Finish what is being packed within `patience` seconds, or leave it to others."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    async def _look_and_pack(self, stream_id: str) -> None:
        async with self._turn:
            with suppress(StreamStoreError):
                known = await self._streams.living(stream_id)
                if known.is_final and not is_packed(known):
                    await self.pack(known)

    async def pack(self, known: KnownStream) -> bool:
        """Pack a finished stream; False if its head changed meanwhile.

        Cost: a PUT for the calendar and a PUT for the head; above `INLINE_BYTES` another for
        the object, or for each of its parts; and a GET for each segment that is not cached.
        """
        if is_packed(known):
            return True
        try:
            if known.number:  # the entry first: a packer that dies later leaves work, not waste
                await self._storage.calendar.note_rest(known.generation)
            if known.info.tail <= INLINE_BYTES:
                return await self._pack_into_head(known)
            return await self._pack_into_object(known)
        except RecordsMoved:
            return False

    async def _pack_into_head(self, known: KnownStream) -> bool:
        chunks: list[bytes] = []
        async for block in all_blocks(self._streams, known):
            chunks += [record.data for record in block.records()]
        _check_whole(known, sum(map(len, chunks)))
        return await self._switch_head(known, Layout(0), chunks)

    async def _pack_into_object(self, known: KnownStream) -> bool:
        """Write a packed object and switch the head to it; remove the object if that fails,
        unless its outcome is unknown: then the head may name it, and a sweep decides."""
        packed = PackedObject(self._storage, known)
        try:
            async for block in all_blocks(self._streams, known):
                await packed.add(block)
            layout = await packed.finish()
            _check_whole(known, layout.blocks[-1][0])
            if await self._switch_head(known, layout, []):
                return True
        except (OutcomeUnknown, asyncio.CancelledError):
            raise  # cancelled by closing, which waits for no further request
        except BaseException:
            await self._drop(packed)
            raise
        await self._drop(packed)
        return False

    async def _drop(self, packed: PackedObject) -> None:
        with suppress(StoreUnavailable, OutcomeUnknown):  # a sweep removes it otherwise
            await packed.drop()

    async def _switch_head(
        self, known: KnownStream, layout: Layout, chunks: list[bytes]
    ) -> bool:
        stamp = self._storage.stamp()
        head = Block.open_head(
            known.info, known.generation, chunks, due=known.due, stamp=stamp
        ).sealed(known.info, layout, due=known.due, stamp=stamp)
        head = head._replace(replaces=known.nonce)
        return await self._heads.replace(known, head) is not None


def _check_whole(known: KnownStream, found: int) -> None:
    """The last check before the segments are given up."""
    if found != known.info.tail:
        raise CorruptData(
            f"stream {known.info.id!r} has {found} bytes in its segments, not {known.info.tail}"
        )
