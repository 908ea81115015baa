"""Stores around a store: what tests derive from to count calls or to make them fail."""

from __future__ import annotations

from collections import Counter
from typing import Any

from streamstores import MemoryStreamStore, OutcomeUnknown, StoreUnavailable, StreamStore
from streamstores.changes import Changes


class Wrapping:
    """Passes every call on, and shares no changes: its followers see only what it returns.

    A wrapper that alters ids, bytes or infos has to do the same.
    """

    def __init__(self, inner: StreamStore | None = None) -> None:
        self.inner = inner or MemoryStreamStore()
        self.limits = self.inner.limits
        self.capabilities = self.inner.capabilities - {"changes"}

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return await self.inner.create(stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return await self.inner.append(stream_id, *chunks, **options)

    async def mark_done(self, stream_id: str, state: Any = "done", **options: Any) -> Any:
        return await self.append(stream_id, state=state, **options)

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Any:
        return await self.inner.read(stream_id, offset, **options)

    async def wait(self, stream_id: str, **options: Any) -> Any:
        return await self.inner.wait(stream_id, **options)

    async def info(self, stream_id: str) -> Any:
        return await self.inner.info(stream_id)

    async def expire(self, stream_id: str, ttl: float | None = None, **options: Any) -> Any:
        return await self.inner.expire(stream_id, ttl, **options)

    async def delete(self, stream_id: str) -> None:
        await self.inner.delete(stream_id)

    def list(self, prefix: str = "") -> Any:
        return self.inner.list(prefix)

    async def sweep(self, **options: Any) -> int:
        return await self.inner.sweep(**options)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Delegating(Wrapping):
    """Passes every call on and loses nothing: its followers hear of changes as the inner
    store's do. A wrapper for metrics, retries or access rights can do the same, even if it
    is made anew for each request."""

    def __init__(self, inner: StreamStore | None = None) -> None:
        super().__init__(inner)
        self.capabilities = self.inner.capabilities

    @property
    def changes(self) -> Changes:
        return self.inner.changes


class Counting(Wrapping):
    """Counts the calls that reach the store."""

    def __init__(self, inner: StreamStore | None = None) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Any:
        self.calls["read"] += 1
        return await super().read(stream_id, offset, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        self.calls["append"] += 1
        return await super().append(stream_id, *chunks, **options)


class Faulty(Counting):
    """Fails the next appends as `faults` says, with one word for each append.

    `"before"` refuses it with `StoreUnavailable`. `"lost"` and `"landed"` raise
    `OutcomeUnknown`; the second after it was applied. None lets it pass.
    """

    def __init__(self, *faults: str | None) -> None:
        super().__init__()
        self.faults = list(faults)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "before":
            raise StoreUnavailable("the backend is away")
        if fault != "lost":
            info = await super().append(stream_id, *chunks, **options)
        if fault is not None:
            raise OutcomeUnknown("the connection was cut")
        return info
