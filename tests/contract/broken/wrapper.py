"""Stores that keep the contract by passing every call on, for the broken stores to build on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from streamstores import MemoryStreamStore, Page, State, StreamInfo


class Wrapper:
    """Passes every call on to a memory store.

    It does not offer the memory store's notifications of changes, so followers see it only
    through `read` and `wait`, including whatever a subclass does wrong there.
    """

    capabilities = MemoryStreamStore.capabilities - {"changes"}

    def __init__(self) -> None:
        self.inner = MemoryStreamStore()
        self.limits = self.inner.limits

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.create(stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.append(stream_id, *chunks, **options)

    async def mark_done(
        self, stream_id: str, state: Any = State.DONE, *, error: Any = None, version: Any = None
    ) -> StreamInfo:
        if state == "streaming":
            return await self.inner.mark_done(stream_id, state)  # refuses
        return await self.append(stream_id, state=state, error=error, version=version)

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Page:
        return await self.inner.read(stream_id, offset, **options)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        return await self.inner.wait(stream_id, version=version, timeout=timeout)

    async def info(self, stream_id: str) -> StreamInfo:
        return await self.inner.info(stream_id)

    async def expire(self, stream_id: str, ttl: Any = None, **options: Any) -> StreamInfo:
        return await self.inner.expire(stream_id, ttl, **options)

    async def delete(self, stream_id: str) -> None:
        await self.inner.delete(stream_id)

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        return self.inner.list(prefix)

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self.inner.sweep(limit=limit)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def stored(self) -> dict[str, Any]:
        """The streams of the memory store by id, as it keeps them."""
        return self.inner._streams

    async def set_info(self, info: StreamInfo, **changes: Any) -> StreamInfo:
        """Change a stored stream in a way that no method of a store allows."""
        stream = self.stored[info.id]
        stream.info = stream.info._replace(**changes)
        return stream.info


class Polls(Wrapper):
    """Waits by asking every `pause` seconds whether the stream has changed."""

    pause = 0.01

    def has_changed(self, before: StreamInfo, now: StreamInfo) -> bool:
        return now.version != before.version

    async def wait(self, stream_id, *, version, timeout):
        before = await self.inner.wait(stream_id, version=version, timeout=0)
        deadline = asyncio.get_running_loop().time() + timeout
        while before.version == version and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(min(self.pause, timeout))
            now = await self.info(stream_id)
            if self.has_changed(before, now):
                return now
        return before
