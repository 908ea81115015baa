"""Stores that are wrong only while their network is bad: each misjudges a call in doubt."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from streamstores import (
    OutcomeUnknown,
    Page,
    StoreUnavailable,
    StreamInfo,
    StreamNotFound,
    open_store,
)
from streamstores.store import StreamStore


class Passing:
    """Passes every call on to the store of a URL."""

    def __init__(self, url: str) -> None:
        self.inner: StreamStore = open_store(url)
        self.capabilities = self.inner.capabilities - {"changes"}
        self.limits = self.inner.limits

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.create(stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        return await self.inner.append(stream_id, *chunks, **options)

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Page:
        return await self.inner.read(stream_id, offset, **options)

    async def info(self, stream_id: str) -> StreamInfo:
        return await self.inner.info(stream_id)

    async def delete(self, stream_id: str) -> None:
        await self.inner.delete(stream_id)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.inner.aclose()


class DoublesAnAppendWhoseAnswerWasLost(Passing):
    async def append(self, stream_id, *chunks, **options):
        with suppress(OutcomeUnknown):
            return await self.inner.append(stream_id, *chunks, **options)
        return await self.inner.append(stream_id, *chunks, **options)


class TakesALostAnswerForNothingDone(Passing):
    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except OutcomeUnknown as exc:
            raise StoreUnavailable("the answer was lost") from exc


class TakesALostAnswerForDone(Passing):
    async def append(self, stream_id, *chunks, **options):
        before = await self.inner.info(stream_id)
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except OutcomeUnknown:
            tail = before.tail + sum(map(len, chunks))
            return before._replace(tail=tail, version=before.version + 1)


class TakesASilentServerForAnEmptyOne(Passing):
    async def read(self, stream_id, offset=0, **options):
        try:
            return await self.inner.read(stream_id, offset, **options)
        except StoreUnavailable as exc:
            raise StreamNotFound(stream_id) from exc


class IsInDoubtAboutARead(Passing):
    async def read(self, stream_id, offset=0, **options):
        try:
            return await self.inner.read(stream_id, offset, **options)
        except StoreUnavailable as exc:
            raise OutcomeUnknown("the connection was lost") from exc


class LeaksTheDriversException(Passing):
    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except (OutcomeUnknown, StoreUnavailable) as exc:
            raise (exc.__cause__ or exc) from None


class NeverRecovers(Passing):
    is_broken = False

    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except (OutcomeUnknown, StoreUnavailable):
            self.is_broken = True
            raise

    async def read(self, stream_id, offset=0, **options):
        if self.is_broken:
            raise StoreUnavailable("the connection was lost")
        return await self.inner.read(stream_id, offset, **options)


DOUBTFUL = (
    DoublesAnAppendWhoseAnswerWasLost,
    TakesALostAnswerForNothingDone,
    TakesALostAnswerForDone,
    TakesASilentServerForAnEmptyOne,
    IsInDoubtAboutARead,
    LeaksTheDriversException,
    NeverRecovers,
)
