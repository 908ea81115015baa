"""Single records of a stream, for adapters that continue where it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from streamstores.store import Record, StreamInfo, StreamStore

__all__ = ["last_record", "stored_records"]

_WINDOW_BYTES = 4_096


async def last_record(store: StreamStore, info: StreamInfo) -> Record | None:
    """The last record before the tail in `info`; None if the stream is empty.

    Costs a read for a record under four kibibytes, and another for each doubling of that.
    Raises `StreamNotFound`.
    """
    window = _WINDOW_BYTES
    while info.tail:
        start = max(info.tail - window, 0)
        records = [record async for record in stored_records(store, info, start)]
        # The first record of a read that began inside it is only the rest of that record.
        if len(records) > 1 or not start:
            return records[-1]
        window *= 2
    return None


async def stored_records(
    store: StreamStore, info: StreamInfo, offset: int = 0
) -> AsyncGenerator[Record, None]:
    """The records from `offset` to the tail in `info`. Raises `StreamNotFound`."""
    while offset < info.tail:
        page = await store.read(info.id, offset)
        for record in page.records:
            if record.offset < info.tail:
                yield record
        offset = page.next_offset
