"""Making one object of a finished stream, safe against races and against dying half-way.

First the calendar is told to remove the segments later, then the packed object is written
under a name of its own, then the head is switched to it under the condition that it is still
the one that was read. A reader sees the segments before the switch and the packed object
after it, and the segments stay `grace` seconds longer for who looked before. Whoever dies
leaves a stream in segments, which the next reader packs, or an object that no head names,
which a sweep removes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block, Layout
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.heads import Heads
from streamstores.backends._s3.keys import Keys
from streamstores.backends._s3.reading import all_blocks
from streamstores.backends._s3.streams import Known, Moved, Streams
from streamstores.backends._s3.transport import Bucket, Upload
from streamstores.errors import CorruptData, OutcomeUnknown, StoreUnavailable, StreamStoreError

INLINE_BYTES = 65_536
"""A finished stream up to this size is kept in its head: one GET replays it."""

BLOCK_BYTES = 262_144
"""What a read in a packed stream fetches at least."""

MOST_BLOCKS = 2000
"""The head names each block: those of a very long stream are larger."""

FORGOTTEN_SECONDS = 30.0
"""After this time nobody else is packing a stream any more."""

PART_BYTES = 8_388_608
"""A packed object above this size is uploaded in such parts."""


def is_packed(known: Known) -> bool:
    layout = known.layout
    return layout is not None and (layout.number == 0 or layout.key is not None)


class Packer:
    """Packs finished streams, one at a time, in the background."""

    def __init__(
        self, streams: Streams, bucket: Bucket, keys: Keys, calendar: Calendar, heads: Heads
    ) -> None:
        self._streams = streams
        self._bucket = bucket
        self._keys = keys
        self._calendar = calendar
        self._heads = heads
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def soon(self, stream_id: str) -> None:
        """Pack a stream that has just finished; what fails is left to later readers."""
        if stream_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._look_and_pack(stream_id))
            self._tasks[stream_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(stream_id, None))

    def seen(self, known: Known) -> None:
        """Pack what a reader found unpacked, where whoever finished it had the time to."""
        number = 0 if known.head == blocks.SEALED else known.number
        newest = self._streams.cache.get(known.generation, number)
        age = self._streams.seconds() - (newest.written_at if newest is not None else 0)
        if known.is_final and not is_packed(known) and age > FORGOTTEN_SECONDS:
            self.soon(known.info.id)

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

    async def pack(self, known: Known) -> bool:
        """Pack a finished stream; False where its head changed meanwhile.

        Cost: a PUT for the calendar and one for the head; and above `INLINE_BYTES` one for
        the object, or one a part; and a GET for each segment that is not cached.
        """
        if is_packed(known):
            return True
        try:
            if known.number:
                await self._calendar.note_rest(known.generation)
            if known.info.tail <= INLINE_BYTES:
                return await self._into_head(known)
            return await self._into_object(known)
        except Moved:
            return False

    async def _into_head(self, known: Known) -> bool:
        lengths: list[int] = []
        payload: list[bytes] = []
        async for block in all_blocks(self._streams, known):
            lengths += block.lengths
            payload.append(block.payload)
        _check_whole(known, sum(lengths))
        return await self._switch(known, Layout(0), lengths, b"".join(payload))

    async def _into_object(self, known: Known) -> bool:
        key = self._keys.pack(known.generation)
        packed = _Packed(self._bucket, key, known, self._heads.nonce())
        try:
            async for block in all_blocks(self._streams, known):
                await packed.add(block)
            layout = Layout(known.number, key, await packed.finish())
            _check_whole(known, layout.blocks[-1][0])
            if await self._switch(known, layout, [], b""):
                return True
        except OutcomeUnknown:
            raise  # the head may name it
        except BaseException:
            await self._drop(packed)
            raise
        await self._drop(packed)
        return False

    async def _drop(self, packed: _Packed) -> None:
        with suppress(StoreUnavailable, OutcomeUnknown):
            await packed.drop()

    async def _switch(
        self, known: Known, layout: Layout, lengths: list[int], payload: bytes
    ) -> bool:
        info = known.info
        head = Block(
            blocks.SEALED,
            info.id,
            known.generation,
            0,
            0,
            self._heads.nonce(),
            info,
            None,
            known.due,
            layout,
            self._streams.seconds(),
            tuple(lengths),
            payload,
        )
        return await self._heads.replace(known, head) is not None


def _check_whole(known: Known, found: int) -> None:
    """The last look before the segments are given up."""
    if found != known.info.tail:
        raise CorruptData(
            f"stream {known.info.id!r} has {found} bytes in its segments, not {known.info.tail}"
        )


class _Packed:
    """A packed object while it is written: a row of blocks, in one PUT or in parts."""

    def __init__(self, bucket: Bucket, key: str, known: Known, nonce: str) -> None:
        self._bucket = bucket
        self._key = key
        self._known = known
        self._nonce = nonce
        self._block_bytes = max(BLOCK_BYTES, known.info.tail // MOST_BLOCKS)
        self._directory: list[tuple[int, int]] = []
        self._lengths: list[int] = []
        self._payload: list[bytes] = []
        self._gathered = 0  # bytes in _payload
        self._start = 0  # offset of _payload
        self._body = bytearray()
        self._sent = 0  # bytes uploaded
        self._upload: Upload | None = None

    async def add(self, block: Block) -> None:
        for record in block.records():
            self._lengths.append(len(record.data))
            self._payload.append(record.data)
            self._gathered += len(record.data)
            if self._gathered >= self._block_bytes:
                self._close_block()
            if len(self._body) >= PART_BYTES:
                await self._send()

    async def finish(self) -> tuple[tuple[int, int], ...]:
        """The directory of the blocks: (offset, position) of each, and of the end."""
        if self._payload:
            self._close_block()
        self._directory.append((self._start, self._sent + len(self._body)))
        if self._upload is None:
            await self._bucket.put(self._key, bytes(self._body))
        else:
            if self._body:
                await self._send()
            await self._upload.finish()
        return tuple(self._directory)

    async def drop(self) -> None:
        if self._upload is not None:
            await self._upload.abort()
        await self._bucket.delete(self._key)

    def _close_block(self) -> None:
        self._directory.append((self._start, self._sent + len(self._body)))
        block = Block(
            blocks.PACKED,
            self._known.info.id,
            self._known.generation,
            len(self._directory),
            self._start,
            self._nonce,
            lengths=tuple(self._lengths),
            payload=b"".join(self._payload),
        )
        self._body += blocks.encode(block)
        self._start += self._gathered
        self._lengths, self._payload, self._gathered = [], [], 0

    async def _send(self) -> None:
        if self._upload is None:
            self._upload = await self._bucket.upload(self._key)
        body = bytes(self._body)
        await self._upload.add(body)
        self._sent += len(body)
        self._body.clear()
