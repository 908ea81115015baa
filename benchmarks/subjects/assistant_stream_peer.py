"""assistant-stream: its resumable stores, which its HTTP helpers are built on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from assistant_stream.resumable import (
    ResumableStreamStore,
    create_in_memory_resumable_stream_store,
    create_redis_resumable_stream_store,
)
from redis.asyncio import Redis

from benchmarks.subjects import MAX_CONNECTIONS, Subject, Take, take_option


class InMemory(Subject):
    store: ResumableStreamStore

    async def open(self) -> None:
        self.store = create_in_memory_resumable_stream_store()

    async def create(self, stream_id: str) -> None:
        await self.store.acquire(stream_id)

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        append = self.store.append
        for chunk in chunks:
            await append(stream_id, chunk)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self.store.append(stream_id, chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        async for entry in self.store.read(stream_id, "", asyncio.Event()):
            take(entry.chunk)

    async def finish(self, stream_id: str) -> None:
        await self.store.finalize(stream_id, "done")


class InRedis(InMemory):
    async def open(self) -> None:
        url, prefix = take_option(self.url, "prefix")
        self._client = Redis.from_url(url, max_connections=MAX_CONNECTIONS)
        self.store = create_redis_resumable_stream_store(self._client, key_prefix=prefix)

    async def aclose(self) -> None:
        await self._client.aclose()
