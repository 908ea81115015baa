"""What is asked of a reading connection: plain functions of its thread."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime, timezone

from streamstores.backends._sqlite.database import COLUMNS, SELECT, Stream, stream_of
from streamstores.errors import CorruptData, OffsetOutOfRange, StreamNotFound
from streamstores.store import Page, Record, StreamInfo


def info(connection: sqlite3.Connection, stream_id: str) -> StreamInfo:
    return _living(connection, stream_id).info


def read(connection: sqlite3.Connection, stream_id: str, offset: int, max_bytes: int) -> Page:
    """The stream and its records in one snapshot, which the transaction is there for."""
    connection.execute("BEGIN")
    try:
        key, stream, _ = _living(connection, stream_id)
        if offset > stream.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=stream.tail)
        records = [] if offset == stream.tail else _records(connection, key, offset, max_bytes)
    finally:
        connection.execute("COMMIT")
    return Page(records, records[-1].end if records else offset, stream)


def _records(
    connection: sqlite3.Connection, key: int, offset: int, max_bytes: int
) -> list[Record]:
    rows = connection.execute(
        'SELECT "end", data FROM streamstores_records WHERE stream = ? AND "end" > ?'
        ' ORDER BY "end"',
        (key, offset),
    )
    records: list[Record] = []
    position, last = offset, offset + max_bytes
    for end, data in rows:
        if end > last and records:
            break
        if end - len(data) < position:  # the read began inside this record
            data = data[position - end :]
        if end - len(data) != position:
            raise CorruptData(f"stream {key} has no record at {position}")
        records.append(Record(position, data))
        position = end
    rows.close()
    if not records:
        raise CorruptData(f"stream {key} has no record at {position}")
    return records


def list_page(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int
) -> tuple[list[StreamInfo], str | None]:
    """Living streams with this prefix and an id above `after`, in the order of their ids,
    and the `after` of the next page, None at the end."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM streamstores_streams WHERE id > ? AND id >= ?"
        " ORDER BY id LIMIT ?",
        (after, prefix, limit),
    ).fetchall()
    streams = [stream_of(row).info for row in rows]
    now = datetime.now(timezone.utc)
    living = [
        info
        for info in streams
        if info.id.startswith(prefix) and (info.expires_at is None or info.expires_at > now)
    ]
    has_more = len(streams) == limit and streams[-1].id.startswith(prefix)
    return living, streams[-1].id if has_more else None


def _living(connection: sqlite3.Connection, stream_id: str) -> Stream:
    row = connection.execute(SELECT, (stream_id,)).fetchone()
    if row is None or (row[9] is not None and row[9] <= time.time_ns() // 1_000):
        raise StreamNotFound(stream_id)
    return stream_of(row)
