"""resumable-stream, the Python port: chunks live in the producer and go out by pub/sub.

Nothing is stored, so there is nothing to append to and nothing to replay from; only its
delivery can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from resumable_stream import (
    RedisPublisher,
    RedisSubscriber,
    create_resumable_stream_context,
)

from benchmarks.subjects import MAX_CONNECTIONS, Subject, Take, take_option


class InRedis(Subject):
    async def open(self) -> None:
        url, prefix = take_option(self.url, "prefix")
        url += f"?max_connections={MAX_CONNECTIONS}"
        self._publisher, self._subscriber = RedisPublisher(url), RedisSubscriber(url)
        await self._publisher.connect()
        await self._subscriber.connect()
        self._context = create_resumable_stream_context(
            key_prefix=prefix, publisher=self._publisher, subscriber=self._subscriber
        )

    async def aclose(self) -> None:
        await self._subscriber.close()
        await self._publisher.close()

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async def texts() -> AsyncIterator[str]:
            async for chunk in source:
                yield chunk.decode()

        own = await self._context.resumable_stream(stream_id, texts)
        async for _ in own:
            pass

    async def follow(self, stream_id: str, take: Take) -> None:
        while True:
            chunks = await self._context.resume_existing_stream(stream_id)
            if chunks is None:
                return
            if chunks != "NOT_FOUND":
                break
            await asyncio.sleep(0.01)
        async for chunk in chunks:
            take(chunk.encode())
