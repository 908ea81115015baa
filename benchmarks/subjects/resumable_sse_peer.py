"""resumable-sse: `push` and `stream`; a reader is a `stream` without a generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis
from resumable_sse.factory import get_streamer

from benchmarks.subjects import MAX_CONNECTIONS, Subject, Take, take_option


class InMemory(Subject):
    _streamer: Any

    async def open(self) -> None:
        self._streamer = get_streamer(backend="memory")

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        push = self._streamer.push
        for chunk in chunks:
            await push(stream_id, chunk.decode())

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self._streamer.push(stream_id, chunk.decode())

    async def follow(self, stream_id: str, take: Take) -> None:
        # A reader that finds nothing for three seconds stops unless this says generating.
        await self._streamer._set_state(stream_id, "generating")
        async for event in self._streamer.stream(stream_id, None):
            if event["event"] == "message":
                take(event["data"].encode())


class InRedis(InMemory):
    async def open(self) -> None:
        url, prefix = take_option(self.url, "prefix")
        self._client = Redis.from_url(url, max_connections=MAX_CONNECTIONS)
        self._streamer = get_streamer(
            backend="redis",
            redis_client=self._client,
            stream_prefix=f"{prefix}:stream",
            status_prefix=f"{prefix}:status",
        )

    async def aclose(self) -> None:
        await self._client.aclose()
