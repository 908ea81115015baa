"""Writing the one object that holds all records of a large finished stream."""

from __future__ import annotations

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block, Layout
from streamstores.backends._s3.bucket import Upload
from streamstores.backends._s3.known_streams import KnownStream
from streamstores.backends._s3.storage import Storage

BLOCK_BYTES = 262_144
"""What a read in a packed stream fetches at least."""

MOST_BLOCKS = 2000
"""The head lists every block, so the blocks of a very long stream are larger."""

PART_BYTES = 8_388_608
"""A packed object above this size is uploaded in parts of this size."""


class PackedObject:
    """A packed object while it is written: a sequence of blocks, in one PUT or in parts.

    Its key is random and used by no other packer, so nothing has to be compared.
    """

    def __init__(self, storage: Storage, known: KnownStream) -> None:
        self._bucket = storage.bucket
        self._key = storage.keys.pack(known.generation)
        self._known = known
        self._block_bytes = max(BLOCK_BYTES, known.info.tail // MOST_BLOCKS)
        self._directory: list[tuple[int, int]] = []
        self._chunks: list[bytes] = []
        self._gathered = 0  # bytes in _chunks
        self._start = 0  # offset of _chunks in the stream
        self._body = bytearray()
        self._sent = 0  # bytes uploaded
        self._upload: Upload | None = None

    async def add(self, block: Block) -> None:
        for record in block.records():
            self._chunks.append(record.data)
            self._gathered += len(record.data)
            if self._gathered >= self._block_bytes:
                self._close_block()
            if len(self._body) >= PART_BYTES:
                await self._send()

    async def finish(self) -> Layout:
        """Write what is left, and return where the records are."""
        if self._chunks:
            self._close_block()
        # The end as well, which is the end of the last block's range.
        self._directory.append((self._start, self._sent + len(self._body)))
        if self._upload is None:
            await self._bucket.put(self._key, bytes(self._body))
        else:
            if self._body:
                await self._send()
            await self._upload.finish()
        return Layout(self._known.number, self._key, tuple(self._directory))

    async def drop(self) -> None:
        """Remove what was written."""
        if self._upload is not None:
            await self._upload.abort()
        await self._bucket.delete(self._key)

    def _close_block(self) -> None:
        self._directory.append((self._start, self._sent + len(self._body)))
        known = self._known
        block = Block.packed(
            known.info.id, known.generation, len(self._directory), self._start, self._chunks
        )
        self._body += block_format.encode(block)
        self._start += self._gathered
        self._chunks, self._gathered = [], 0

    async def _send(self) -> None:
        if self._upload is None:
            self._upload = await self._bucket.upload(self._key)
        body = bytes(self._body)
        await self._upload.add(body)
        self._sent += len(body)
        self._body.clear()
