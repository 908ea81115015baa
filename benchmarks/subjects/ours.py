"""Our stores, used as their documentation says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from benchmarks.subjects import Subject, Take
from streamstores import StreamStore, StreamWriter, follow, open_store


class Ours(Subject):
    """A store by its URL: `append`, `StreamWriter` and `follow`."""

    store: StreamStore

    async def open(self) -> None:
        self.store = open_store(self.url)

    async def aclose(self) -> None:
        await self.store.aclose()

    async def create(self, stream_id: str) -> None:
        await self.store.create(stream_id)

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        append = self.store.append
        for chunk in chunks:
            await append(stream_id, chunk)

    async def write(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        writer = StreamWriter(self.store, stream_id)
        for chunk in chunks:
            await writer.write(chunk)
        await writer.aclose()

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async with StreamWriter(self.store, stream_id) as writer:
            async for chunk in source:
                await writer.write(chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        follower = follow(self.store, stream_id)
        while batch := await follower.batch():
            for record in batch:
                take(record.data)

    async def finish(self, stream_id: str) -> None:
        await self.store.mark_done(stream_id)
