"""A store of a third party, and the suite that it runs."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from streamstores import Limits, MemoryStreamStore, Page, State, StreamInfo, StreamStore
from streamstores.conformance import (
    Report,
    Target,
    all_checks,
    contract_tests,
    model_tests,
    run_checks,
)
from streamstores.store import StateLike


class CountingStore:
    """Passes every call on and counts the appends; no base class is needed."""

    def __init__(self, inner: StreamStore) -> None:
        self.inner = inner
        self.limits: Limits = inner.limits
        self.capabilities: frozenset[str] = inner.capabilities
        self.appends = 0

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        return await self.inner.create(
            stream_id,
            *chunks,
            ttl=ttl,
            expires_at=expires_at,
            attributes=attributes,
            state=state,
        )

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
        self.appends += 1
        return await self.inner.append(
            stream_id,
            *chunks,
            at=at,
            version=version,
            state=state,
            error=error,
            attributes=attributes,
        )

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        return await self.inner.mark_done(stream_id, state, error=error, version=version)

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        return await self.inner.read(stream_id, offset, max_bytes=max_bytes)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        return await self.inner.wait(stream_id, version=version, timeout=timeout)

    async def info(self, stream_id: str) -> StreamInfo:
        return await self.inner.info(stream_id)

    async def expire(
        self, stream_id: str, ttl: float | None = None, *, expires_at: datetime | None = None
    ) -> StreamInfo:
        return await self.inner.expire(stream_id, ttl, expires_at=expires_at)

    async def delete(self, stream_id: str) -> None:
        await self.inner.delete(stream_id)

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        return self.inner.list(prefix)

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self.inner.sweep(limit=limit)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> "CountingStore":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


store: StreamStore = CountingStore(MemoryStreamStore())


def make_store() -> CountingStore:
    return CountingStore(MemoryStreamStore())


test_contract = contract_tests(make_store, deviations={"clause01-error-text-is-kept": "why"})
test_model = model_tests(make_store)
test_by_fixture = contract_tests("fixture_name")
test_by_target = contract_tests(Target(make_store, second_process="package.module:make_store"))

report: Report = run_checks(all_checks(), Target(make_store))
passed: int = report.count("passed")
