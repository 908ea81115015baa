"""redis-py: a script an append, a blocking XREAD on a connection of its own a reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.subjects import MAX_CONNECTIONS, Subject, Take, take_option

_APPEND = """
redis.call('XADD', KEYS[2], '*', 'd', ARGV[1])
redis.call('HSET', KEYS[1], 'tail', #ARGV[1], 'version', 1)
redis.call('PEXPIRE', KEYS[1], 3600000)
redis.call('PEXPIRE', KEYS[2], 3600000)
return redis.call('PUBLISH', KEYS[1], '1')
"""
_PAGE = 1_000
_PAGE_BYTES = 1_048_576


class RawRedis(Subject):
    """`append_each` is an EVALSHA with the writes of a store's append; `write` and `produce`
    are one XADD after another; a reader replays with XRANGE pages, then XREAD BLOCK."""

    async def open(self) -> None:
        self._plain_url, self._prefix = take_option(self.url, "prefix")
        self._client = Redis.from_url(self._plain_url)
        self._readers = BlockingConnectionPool.from_url(
            self._plain_url, max_connections=MAX_CONNECTIONS, timeout=60
        )
        self._sha = await self._client.script_load(_APPEND)

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._readers.disconnect()

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        info, records = self._keys(stream_id)
        for chunk in chunks:
            await self._client.evalsha(self._sha, 2, info, records, chunk)

    async def write(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        _, records = self._keys(stream_id)
        for chunk in chunks:
            await self._client.xadd(records, {"d": chunk})

    async def fill(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        _, records = self._keys(stream_id)
        for start in range(0, len(chunks), _PAGE):
            pipeline = self._client.pipeline(transaction=False)
            for chunk in chunks[start : start + _PAGE]:
                pipeline.xadd(records, {"d": chunk})
            await pipeline.execute()

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        _, records = self._keys(stream_id)
        async for chunk in source:
            await self._client.xadd(records, {"d": chunk})

    async def follow(self, stream_id: str, take: Take) -> None:
        _, records = self._keys(stream_id)
        reader: Any = Redis(connection_pool=self._readers)
        last = await self._replay(reader, records, take)
        while True:
            reply = await reader.xread({records: last}, block=30_000)
            for _, entries in reply:
                for _, fields in entries:
                    take(fields[b"d"])
                last = entries[-1][0]

    async def _replay(self, reader: Any, key: str, take: Take) -> bytes | str:
        """Read in pages of 1,000 records or of a megabyte, so that replies stay small."""
        last: bytes | str = "0-0"
        count = 16
        while True:
            start = b"(" + last if isinstance(last, bytes) else "-"
            entries = await reader.xrange(key, start, "+", count=count)
            for _, fields in entries:
                take(fields[b"d"])
            if len(entries) < count:
                return entries[-1][0] if entries else last
            last = entries[-1][0]
            mean = sum(len(fields[b"d"]) for _, fields in entries) // count
            count = max(1, min(_PAGE, _PAGE_BYTES // mean))

    def _keys(self, stream_id: str) -> tuple[str, str]:
        return f"{self._prefix}:{{{stream_id}}}:i", f"{self._prefix}:{{{stream_id}}}:r"
