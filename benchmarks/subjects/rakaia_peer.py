"""rakaia-streams: its in-memory store, followed as its own protocol server does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from rakaia import StreamStore

from benchmarks.subjects import Subject, Take


class InMemory(Subject):
    async def open(self) -> None:
        self._store = StreamStore()

    async def create(self, stream_id: str) -> None:
        self._store.create(stream_id, content_type="text/plain")

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        append = self._store.append
        for chunk in chunks:
            append(stream_id, chunk)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            self._store.append(stream_id, chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        offset = "-1"
        while True:
            event = self._store.new_messages_event(stream_id)
            messages, _ = self._store.read(stream_id, offset)
            for message in messages:
                take(message.data)
            if messages:
                offset = messages[-1].offset
            else:
                await event.wait()

    async def finish(self, stream_id: str) -> None:
        self._store.close_stream(stream_id)
