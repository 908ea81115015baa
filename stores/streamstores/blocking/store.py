"""A store for synchronous code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from streamstores.blocking.background_loop import Resident, call, iterate
from streamstores.blocking.writer import BlockingWriter
from streamstores.follow import follow
from streamstores.limits import Limits
from streamstores.store import Page, Record, State, StateLike, StreamInfo, StreamStore
from streamstores.store_urls import open_store as open_async_store

__all__ = ["BlockingStore", "open_store"]


def open_store(url: str) -> BlockingStore:
    """The store that a URL names, for synchronous code. It connects at the first call.

    Raises what `streamstores.open_store` raises: `InvalidRequest` at the first call.
    """
    return BlockingStore(url)


class BlockingStore:
    """The methods of `StreamStore` without `async`, and `writer` and `follow`.

    `store` is a URL, or an open store that was made for this object alone: it is used only in
    the background loop, and stays open if this object is closed.
    """

    def __init__(self, store: str | StreamStore) -> None:
        self._url = store if isinstance(store, str) else None

        async def make() -> StreamStore:  # in the loop, to which a store belongs
            return open_async_store(store) if isinstance(store, str) else store

        self._resident = Resident(make, survives_fork=self._url is not None)

    def __repr__(self) -> str:
        return f"<BlockingStore on {self._resident_name()}>"

    @property
    def limits(self) -> Limits:
        return self._resident.get().limits

    @property
    def capabilities(self) -> frozenset[str]:
        return self._resident.get().capabilities

    def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        return call(
            self._resident.get().create(
                stream_id,
                *chunks,
                ttl=ttl,
                expires_at=expires_at,
                attributes=attributes,
                state=state,
            )
        )

    def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        return call(
            self._resident.get().append(
                stream_id,
                *chunks,
                at=at,
                version=version,
                state=state,
                error=error,
                attributes=attributes,
            )
        )

    def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        return call(
            self._resident.get().mark_done(stream_id, state, error=error, version=version)
        )

    def read(self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576) -> Page:
        return call(self._resident.get().read(stream_id, offset, max_bytes=max_bytes))

    def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        return call(self._resident.get().wait(stream_id, version=version, timeout=timeout))

    def info(self, stream_id: str) -> StreamInfo:
        return call(self._resident.get().info(stream_id))

    def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        return call(self._resident.get().expire(stream_id, ttl, expires_at=expires_at))

    def delete(self, stream_id: str) -> None:
        call(self._resident.get().delete(stream_id))

    def list(self, prefix: str = "") -> Iterator[StreamInfo]:
        return iterate(self._resident.get().list(prefix))

    def sweep(self, *, limit: int = 1000) -> int:
        return call(self._resident.get().sweep(limit=limit))

    def writer(self, stream_id: str, **options: Any) -> BlockingWriter:
        """A writer of an existing stream, with the options of `StreamWriter`.

        It shows a sign of life every five seconds unless `heartbeat` says otherwise.
        """
        return BlockingWriter(self._resident.get(), stream_id, options)

    def follow(
        self,
        stream_id: str,
        offset: int = 0,
        *,
        producer_timeout: float | None = None,
        wait_for_create: float = 0.0,
    ) -> Iterator[Record]:
        """The records from `offset`, then live, to the end of the stream. Raises as the
        asynchronous `follow` does."""
        store = self._resident.get()
        follower = follow(
            store,
            stream_id,
            offset,
            producer_timeout=producer_timeout,
            wait_for_create=wait_for_create,
        )
        return iterate(follower)

    def close(self) -> None:
        """Close the store, if it was opened by its URL. Idempotent."""
        store = self._resident.take()
        if store is not None and self._url is not None:
            call(store.aclose())

    def __enter__(self) -> BlockingStore:
        self._resident.get()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _resident_name(self) -> str:
        return (self._url or "a store").partition("://")[0]
