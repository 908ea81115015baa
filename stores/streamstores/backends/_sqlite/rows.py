"""Rows of the table of streams, and what they mean."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from streamstores.stored_form import stored_info
from streamstores.values import StreamInfo

COLUMNS = (
    "key, id, state, tail, version, error, attributes, created_at, updated_at, ttl,"
    " expires_at, changed"
)
_SELECT = f"SELECT {COLUMNS} FROM streamstores_streams WHERE id = ?"


class StreamRow(NamedTuple):
    """A stream's info, with the key of its records and its `changed` (see 001_streams.sql)."""

    key: int
    info: StreamInfo
    changed: int


def find_row(connection: sqlite3.Connection, stream_id: str) -> StreamRow | None:
    """The row of a stream, even if the stream has expired."""
    row = connection.execute(_SELECT, (stream_id,)).fetchone()
    return None if row is None else stream_row(row)


def stream_row(row: tuple[Any, ...]) -> StreamRow:
    """The meaning of `COLUMNS`. Raises `CorruptData` if no store can have written them."""
    key, stream_id, state, tail, version, error, attributes = row[:7]
    created_at, updated_at, ttl, expires_at, changed = row[7:]
    # Attributes are frozen by this, because the writing connection keeps the same info.
    info = stored_info(
        stream_id,
        state=state,
        tail=tail,
        version=version,
        error=error,
        attributes=attributes,
        created_at=created_at,
        updated_at=updated_at,
        ttl=ttl,
        expires_at=expires_at,
    )
    return StreamRow(key, info, changed)
