"""A store around a store that measures its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import datetime
from time import perf_counter
from typing import TypeVar

from streamstores import observation
from streamstores.changes import Changes
from streamstores.limits import Limits
from streamstores.store import Page, State, StateLike, StreamInfo, StreamStore

__all__ = ["InstrumentedStore"]

T = TypeVar("T")


class InstrumentedStore:
    """Passes every call on, and tells the observer how long it took and how it ended.

    It keeps every promise of `inner`, shares its changes, and adds no attribute to a stream.
    `wait` and `list` are passed on unmeasured, because how long they take depends on
    their callers. Without an observer a call costs one more coroutine.
    """

    def __init__(self, inner: StreamStore, name: str) -> None:
        self.inner: StreamStore = inner
        self.name: str = name
        """What the metrics call it."""
        self.limits: Limits = inner.limits
        self.capabilities: frozenset[str] = inner.capabilities

    def __repr__(self) -> str:
        return f"<InstrumentedStore {self.name!r} of {self.inner!r}>"

    @property
    def changes(self) -> Changes:
        """The inner store's, if it shares them: see `SharesChanges`. Else an AttributeError, so
        that followers do not take this store for one that does."""
        changes: Changes = getattr(self.inner, "changes")  # noqa: B009  # see the docstring
        return changes

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """As the inner store's; its records count as appended."""
        created = self.inner.create(
            stream_id,
            *chunks,
            ttl=ttl,
            expires_at=expires_at,
            attributes=attributes,
            state=state,
        )
        return await self._measured("create", created, chunks)

    async def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """As the inner store's; its records count if it has returned."""
        appended = self.inner.append(
            stream_id,
            *chunks,
            at=at,
            version=version,
            state=state,
            error=error,
            attributes=attributes,
        )
        return await self._measured("append", appended, chunks)

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        done = self.inner.mark_done(stream_id, state, error=error, version=version)
        return await self._measured("mark_done", done)

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        page = self.inner.read(stream_id, offset, max_bytes=max_bytes)
        return await self._measured("read", page)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        return await self.inner.wait(stream_id, version=version, timeout=timeout)

    async def info(self, stream_id: str) -> StreamInfo:
        return await self._measured("info", self.inner.info(stream_id))

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        expired = self.inner.expire(stream_id, ttl, expires_at=expires_at)
        return await self._measured("expire", expired)

    async def delete(self, stream_id: str) -> None:
        await self._measured("delete", self.inner.delete(stream_id))

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        return self.inner.list(prefix)

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self._measured("sweep", self.inner.sweep(limit=limit))

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> InstrumentedStore:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.inner.__aexit__(*exc_info)

    async def _measured(
        self, operation: str, call: Awaitable[T], chunks: tuple[bytes, ...] | None = None
    ) -> T:
        """The call's result. `chunks` are what it appends, if it does."""
        observer = observation.observer
        if observer is None:
            return await call
        error: BaseException | None = None
        began_at = perf_counter()
        try:
            result = await call
        except BaseException as exc:
            error = exc
            raise
        finally:
            observer.operated(self, operation, perf_counter() - began_at, error)
        if chunks:
            observer.appended(self, chunks)
        return result
