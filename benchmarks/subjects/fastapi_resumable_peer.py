"""fastapi-resumable-stream: a producer is a generator, started in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi_resumable_stream import ResumableStream
from redis.asyncio import Redis

from benchmarks.subjects import MAX_CONNECTIONS, NotOffered, Subject, Take, take_option


class InRedis(Subject):
    async def open(self) -> None:
        url, prefix = take_option(self.url, "prefix")
        self._client = Redis.from_url(url, max_connections=MAX_CONNECTIONS)
        self._stream = ResumableStream(self._client, prefix=prefix)

    async def aclose(self) -> None:
        await self._stream.close()
        await self._client.aclose()

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        async def source() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        await self.produce(stream_id, source())

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        if await self._stream.status(stream_id) != "missing":
            raise NotOffered  # a stream that has ended takes no more
        ended = asyncio.Event()

        async def producer() -> AsyncIterator[str]:
            try:
                async for chunk in source:
                    yield chunk.decode()
            finally:
                ended.set()

        await self._stream.start(stream_id, producer)
        await ended.wait()

    async def follow(self, stream_id: str, take: Take) -> None:
        while True:
            chunks = await self._stream.resume(stream_id)
            if chunks is not None:
                break
            await asyncio.sleep(0.01)
        async for chunk in chunks:
            take(chunk.encode())
