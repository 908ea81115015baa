"""The mutations, each a function of an open `Transaction`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamstores import limits as bounds
from streamstores.backends._sqlite.rows import StreamRow
from streamstores.backends._sqlite.transactions import Transaction
from streamstores.errors import StreamExists
from streamstores.mutations import (
    Creation,
    Mutation,
    changes_nothing,
    has_expired,
    mutated,
    refuse,
    with_expiry,
)
from streamstores.stored_form import attributes_to_json
from streamstores.values import StreamInfo

RECORDS_AT_ONCE = 5_000
"""Records that a transaction sweeps at most, so that appends never wait long for it."""

_SLICE = 'FROM streamstores_records WHERE stream = ?1 ORDER BY "end" LIMIT ?2'

_INSERT = (
    "INSERT INTO streamstores_streams"
    " (id, state, tail, version, error, attributes, created_at, updated_at, ttl, expires_at,"
    " changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GROW = (
    "UPDATE streamstores_streams SET tail = ?, version = ?, updated_at = ?, expires_at = ?"
    " WHERE key = ?"
)
_GROW_AND_RENUMBER = (
    "UPDATE streamstores_streams SET tail = ?, version = ?, updated_at = ?, expires_at = ?,"
    " changed = ? WHERE key = ?"
)
_UPDATE = (
    "UPDATE streamstores_streams SET state = ?, error = ?, attributes = ?, tail = ?,"
    " version = ?, updated_at = ?, expires_at = ?, changed = ? WHERE key = ?"
)


def create(transaction: Transaction, creation: Creation) -> StreamInfo:
    """Create a stream with its first records. Raises `StreamExists` if the id is alive."""
    existing = transaction.find(creation.stream_id)
    if existing is not None:
        if not has_expired(existing.info, transaction.moment):
            raise StreamExists(f"stream {creation.stream_id!r} exists", existing.info)
        # `end` and not `remove`: watchers of the expired stream have to learn of the new one.
        transaction.end(creation.stream_id, existing.key)
    info = creation.begun(transaction.moment)
    moment = transaction.writer.take_creation_time(info.created_at)
    info = info._replace(created_at=moment, updated_at=moment)
    changed = transaction.writer.take_number()
    values = (
        info.id,
        info.state.value,
        info.tail,
        info.version,
        info.error,
        attributes_to_json(info.attributes),
        bounds.to_microseconds(info.created_at),
        bounds.to_microseconds(info.updated_at),
        info.ttl,
        _microseconds(info.expires_at),
        changed,
    )
    key = transaction.connection.execute(_INSERT, values).lastrowid
    assert key is not None
    transaction.add_records(key, 0, creation.chunks)
    return transaction.writer.know(StreamRow(key, info, changed)).info


def append(transaction: Transaction, stream_id: str, mutation: Mutation) -> StreamInfo:
    row = transaction.get(stream_id)
    before = row.info
    if changes_nothing(before, mutation):
        return before
    refuse(before, mutation)
    after = mutated(before, mutation, transaction.moment)
    _write(transaction, row, after)
    transaction.add_records(row.key, before.tail, mutation.chunks)
    return after


def _write(transaction: Transaction, row: StreamRow, after: StreamInfo) -> None:
    """Write no more than what changed: each index costs, and each page of the file."""
    key, before, changed = row
    writer = transaction.writer
    updated_at = bounds.to_microseconds(after.updated_at)
    expires_at = _microseconds(after.expires_at)
    is_numbered = writer.has_highest_number(row)
    if not is_numbered:
        changed = writer.take_number()
    values: tuple[Any, ...] = (after.tail, after.version, updated_at, expires_at)
    # The plain append leaves the long texts alone, and mostly `changed`, whose index would cost
    # a page.
    if not _has_only_grown(before, after):
        state, attributes = after.state.value, attributes_to_json(after.attributes)
        values = (state, after.error, attributes, *values, changed, key)
        transaction.connection.execute(_UPDATE, values)
    elif is_numbered:
        transaction.connection.execute(_GROW, (*values, key))
    else:
        transaction.connection.execute(_GROW_AND_RENUMBER, (*values, changed, key))
    writer.know(StreamRow(key, after, changed))


def _has_only_grown(before: StreamInfo, after: StreamInfo) -> bool:
    return (
        after.state is before.state
        and after.error == before.error
        and after.attributes is before.attributes
    )


def expire(
    transaction: Transaction, stream_id: str, ttl: float | None, expires_at: datetime | None
) -> StreamInfo:
    key, info, changed = transaction.get(stream_id)
    info = with_expiry(info, ttl, expires_at, transaction.moment)
    if has_expired(info, transaction.moment):
        transaction.end(stream_id, key)
    else:
        transaction.connection.execute(
            "UPDATE streamstores_streams SET ttl = ?, expires_at = ? WHERE key = ?",
            (ttl, _microseconds(info.expires_at), key),
        )
        transaction.writer.know(StreamRow(key, info, changed))
    return info


def delete(transaction: Transaction, stream_id: str) -> StreamInfo:
    key, info, _ = transaction.get(stream_id)
    transaction.end(stream_id, key)
    return info


def sweep_streams(transaction: Transaction, limit: int) -> int:
    """Remove up to `limit` expired streams. Watchers are not told: they know the time."""
    rows = transaction.connection.execute(
        "SELECT id, key FROM streamstores_streams WHERE expires_at <= ? LIMIT ?",
        (transaction.now, limit),
    ).fetchall()
    for stream_id, key in rows:
        transaction.remove(stream_id, key)
    return len(rows)


def sweep_records(transaction: Transaction) -> bool:
    """Remove some records of a stream that is gone; True if there may be more to remove."""
    sql = "SELECT stream FROM streamstores_unswept"
    row = transaction.connection.execute(sql).fetchone()
    if row is None:
        return False
    batch = (*row, RECORDS_AT_ONCE)
    # The large records first: their numbers are known only from the rows that go next.
    transaction.connection.execute(
        f"DELETE FROM streamstores_large WHERE number IN (SELECT large {_SLICE})", batch
    )
    removed = transaction.connection.execute(
        'DELETE FROM streamstores_records WHERE stream = ?1 AND "end" IN'
        f' (SELECT "end" {_SLICE})',
        batch,
    ).rowcount
    # Only now, so that a process that dies in between leaves the rest for another to sweep.
    if removed < RECORDS_AT_ONCE:
        transaction.connection.execute("DELETE FROM streamstores_unswept WHERE stream = ?", row)
    return True


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else bounds.to_microseconds(moment)
