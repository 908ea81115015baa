"""Queries: functions that a reading connection runs in its thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from itertools import islice
from typing import Any, cast

from streamstores.backends._sqlite.rows import COLUMNS, StreamRow, find_row, stream_row
from streamstores.errors import CorruptData, OffsetOutOfRange, StreamNotFound
from streamstores.limits import MAX_OFFSET, to_microseconds
from streamstores.mutations import has_expired
from streamstores.values import Page, Record, StreamInfo

MAX_RECORDS = 16_384
"""In one page: records of a few bytes take far more memory than `max_bytes`."""

# SQLite's own bound, SQLITE_MAX_VARIABLE_NUMBER, was lower before this version.
_MAX_VARIABLES = 10_000 if sqlite3.sqlite_version_info >= (3, 32) else 999

_RECORDS = (
    'SELECT "end", coalesce('
    "data, (SELECT data FROM streamstores_large WHERE number = large), x'')"
    ' FROM streamstores_records WHERE stream = ? AND "end" > ? AND "end" <= ?'
    ' ORDER BY "end" LIMIT ?'
)


def info(connection: sqlite3.Connection, stream_id: str) -> StreamInfo:
    return _living_row(connection, stream_id).info


def read(connection: sqlite3.Connection, stream_id: str, offset: int, max_bytes: int) -> Page:
    """The stream and its records, in one transaction and so of one snapshot."""
    connection.execute("BEGIN")
    try:
        key, stream, _ = _living_row(connection, stream_id)
        if offset > stream.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=stream.tail)
        records = [] if offset == stream.tail else _records(connection, key, offset, max_bytes)
    finally:
        # After an error too: a transaction that stays open keeps its snapshot, and the WAL from
        # being restarted.
        connection.execute("COMMIT")
    return Page(records, records[-1].end if records else offset, stream)


def _records(
    connection: sqlite3.Connection, key: int, offset: int, max_bytes: int
) -> list[Record]:
    rows = connection.execute(_RECORDS, (key, offset, offset + max_bytes, MAX_RECORDS))
    # Bounded by bytes in the query: to stop reading rows half-way costs more than it saves.
    records = _tiled(rows, offset)
    if not records:  # the first one is longer than `max_bytes`, and comes alone
        records = _tiled(connection.execute(_RECORDS, (key, offset, MAX_OFFSET, 1)), offset)
    if not records:
        raise CorruptData(f"there is no record at {offset}")
    return records


def _tiled(rows: Iterable[tuple[int, bytes]], offset: int) -> list[Record]:
    """The rows as records from `offset` on, which may be inside the first of them."""
    records: list[Record] = []
    new = cast("Any", tuple).__new__  # `Record(...)` takes twice as long
    for end, data in rows:
        if end - len(data) != offset:
            if records or end - len(data) > offset:
                raise CorruptData(f"there is no record at {offset}")
            data = data[offset - end :]
        records.append(new(Record, (offset, data)))
        offset = end
    return records


def list_page(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int
) -> tuple[list[StreamInfo], str | None]:
    """Living streams with this prefix and an id above `after`, in the order of their ids.

    With them comes the `after` of the next page, which is None at the end.
    """
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM streamstores_streams WHERE id > ? AND id >= ?"
        " ORDER BY id LIMIT ?",
        (after, prefix, limit),
    ).fetchall()
    streams = [stream_row(row).info for row in rows]
    # Expired streams are dropped here and not in the query, so that a page always ends at a
    # known id, however many of its streams have expired.
    now = datetime.now(timezone.utc)
    living = [
        each for each in streams if each.id.startswith(prefix) and not has_expired(each, now)
    ]
    has_more = len(streams) == limit and streams[-1].id.startswith(prefix)
    return living, streams[-1].id if has_more else None


def changed_streams(
    connection: sqlite3.Connection, known: Mapping[str, int]
) -> dict[str, int | None]:
    """The streams whose version is another than the known one, with that version; None for a
    stream that is gone."""
    found: dict[str, int] = {}
    ids = iter(known)
    while some := list(islice(ids, _MAX_VARIABLES)):
        marks = ",".join("?" * len(some))
        sql = f"SELECT id, version, expires_at FROM streamstores_streams WHERE id IN ({marks})"
        now = time.time_ns() // 1_000
        found |= {
            stream_id: version
            for stream_id, version, expires_at in connection.execute(sql, some)
            if expires_at is None or expires_at > now
        }
    return {each: found.get(each) for each in known if found.get(each) != known[each]}


def _living_row(connection: sqlite3.Connection, stream_id: str) -> StreamRow:
    row = find_row(connection, stream_id)
    if row is None:
        raise StreamNotFound(stream_id)
    expires_at = row.info.expires_at
    if expires_at is not None and to_microseconds(expires_at) <= time.time_ns() // 1_000:
        raise StreamNotFound(stream_id)
    return row
