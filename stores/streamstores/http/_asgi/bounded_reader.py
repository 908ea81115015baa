"""A reader of a stream whose client may be slow, in bounded memory.

A follower reads up to a megabyte at a time, and a megabyte of short records takes twenty times
as much memory. That is no matter while it is sent at once. But every client that stops reading
would hold such a page. So a reader that is far behind reads small pages by itself, and follows
only once it is near the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from streamstores.errors import OffsetOutOfRange, StreamNotFound
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["FIRST_PAGE_BYTES", "BoundedReader"]

PAGE_MEMORY = 262_144
"""About the memory of one page, records and all."""

FIRST_PAGE_BYTES = 8192
"""For a first page, before it is known how long the records are."""

_RECORD_MEMORY = 112  # of a Record, its bytes object and its offset, beside the data
_LEAST_PAGE_BYTES = 4096
_NEAR_BYTES = 8192  # a stream's end that a follower may read at once
_SLOW_SECONDS = 1.0  # a client that takes a batch for so long may be far behind by then


class BatchSource(Protocol):
    """A follower, or a `RunFollower`."""

    @property
    def info(self) -> StreamInfo | None: ...
    async def batch(self) -> list[Record]: ...
    async def aclose(self) -> None: ...


class BoundedReader:
    """One client's place in the stream `info`.

    `follow(info, offset)` gives a follower of it. A batch takes about `PAGE_MEMORY`, or one
    record if that is longer. Up to 8 KiB behind the end, reading costs what it costs a
    follower. Further behind it costs a read for each page, and one more to go on live.
    """

    def __init__(
        self,
        store: StreamStore,
        info: StreamInfo,
        offset: int,
        follow: Callable[[StreamInfo, int], Awaitable[BatchSource]],
    ) -> None:
        self.info: StreamInfo = info
        """The stream as last seen; after the last batch, how it ended."""
        self._store = store
        self._offset = offset
        self._follow = follow
        self._follower: BatchSource | None = None
        self._page_bytes = FIRST_PAGE_BYTES
        self._is_behind = info.tail - offset > _NEAR_BYTES
        self._clock = asyncio.get_running_loop().time
        self._gave_at = self._clock()

    async def batch(self) -> list[Record]:
        """Wait for records, and return some; empty at the end. Raises as a follower does."""
        if self._follower is not None and self._clock() - self._gave_at > _SLOW_SECONDS:
            # The follower's next batch would be all that came meanwhile, up to a megabyte.
            await self.aclose()
            self._is_behind = True
        records: list[Record] = []
        if self._is_behind:
            records = await self._read_page()
        if not records and not self._has_ended():
            records = await self._next_live()
        if records:
            self._offset = records[-1].end
        self._gave_at = self._clock()
        return records

    async def aclose(self) -> None:
        """Stop following. Idempotent."""
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.aclose()

    async def _read_page(self) -> list[Record]:
        """The next page; none at the end of the stream."""
        try:
            page = await self._store.read(
                self.info.id, self._offset, max_bytes=self._page_bytes
            )
        except OffsetOutOfRange as exc:  # the stream was longer, so this is a namesake
            raise StreamNotFound(self.info.id) from exc
        if page.info.created_at != self.info.created_at:
            raise StreamNotFound(self.info.id)
        self.info = page.info
        self._is_behind = page.next_offset < page.info.tail
        if page.records:
            self._page_bytes = _fitting_page_bytes(page.records)
        return page.records

    def _has_ended(self) -> bool:
        is_over = self.info.state is not State.STREAMING and self._offset == self.info.tail
        # A follower tells the end by an empty batch. Only it has seen what was appended after
        # `info`.
        return self._follower is None and is_over

    async def _next_live(self) -> list[Record]:
        if self._follower is None:
            self._follower = await self._follow(self.info, self._offset)
        records = await self._follower.batch()
        self.info = self._follower.info or self.info
        return records


def _fitting_page_bytes(records: list[Record]) -> int:
    """How many bytes of such records take `PAGE_MEMORY`."""
    size = sum(len(record.data) for record in records)
    memory = size + _RECORD_MEMORY * len(records)
    return max(PAGE_MEMORY * size // memory, _LEAST_PAGE_BYTES)
