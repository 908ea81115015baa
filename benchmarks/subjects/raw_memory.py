"""A bare list for each stream, and a future for each waiting reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from benchmarks.subjects import Subject, Take


class RawMemory(Subject):
    async def open(self) -> None:
        self._records: dict[str, list[bytes]] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}

    async def create(self, stream_id: str) -> None:
        self._records[stream_id] = []
        self._waiters[stream_id] = []

    async def append(self, stream_id: str, chunk: bytes) -> None:
        self._records[stream_id].append(chunk)
        waiters = self._waiters[stream_id]
        if waiters:
            self._waiters[stream_id] = []
            for waiter in waiters:
                waiter.set_result(None)

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        append = self.append
        for chunk in chunks:
            await append(stream_id, chunk)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self.append(stream_id, chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        loop = asyncio.get_running_loop()
        records = self._records[stream_id]
        read = 0
        while True:
            while read < len(records):
                take(records[read])
                read += 1
            waiter = loop.create_future()
            self._waiters[stream_id].append(waiter)
            await waiter
