"""The writing connection: mutations, many of them in one transaction.

Every mutation is a function of an open `Transaction`, so that many can share one commit. It
checks before it writes, so one that is refused leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Union

from streamstores import limits as bounds
from streamstores.backends._sqlite.database import (
    SELECT,
    Stream,
    attributes_text,
    data_version,
    roll_back,
    stream_of,
)
from streamstores.errors import OutcomeUnknown, StreamExists, StreamNotFound, StreamStoreError
from streamstores.mutations import Mutation, changes_nothing, mutated, refuse
from streamstores.store import State, StreamInfo

CROWD = 64
"""How many streams one process lets share the highest number, and so about how many rows a
watcher looks at after a commit."""

_MOST_KNOWN = 1_024  # streams, each perhaps with 16 KiB of attributes
_LARGE_BYTES = 900  # a row of a quarter of a page, as SQLite makes them, just holds this

_PURGE_RECORDS = 5_000
"""Records removed in one transaction, so that purging never holds up the appends for long."""

_SLICE = 'FROM streamstores_records WHERE stream = ?1 ORDER BY "end" LIMIT ?2'

_GROW = "UPDATE streamstores_streams SET tail = ?, version = ?, expires_at = ? WHERE key = ?"
_UPDATE = (
    "UPDATE streamstores_streams SET state = ?, tail = ?, version = ?, error = ?,"
    " attributes = ?, expires_at = ?, changed = ? WHERE key = ?"
)
_INSERT_RECORD = "INSERT INTO streamstores_records VALUES (?, ?, ?, ?)"
_INSERT_LARGE = "INSERT INTO streamstores_large (data) VALUES (?)"


class Writer:
    """The writing connection, and what it knows without asking: the streams that it saw or
    wrote last, true as long as no other connection has committed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.streams: dict[str, Stream] = {}
        self._version = -1  # the `data_version` that `streams` and `_number` are true of
        self._number = 0
        self._sharing = CROWD  # streams that took the number from here; at first who knows

    def commit(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Run the operations in one transaction: for each its result, or why it was refused.

        All of them fail together where SQLite fails, which raises its error: nothing was
        applied, except that after `OutcomeUnknown` it may have been.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self._catch_up()
            transaction = Transaction(self)
            outcomes = [_outcome(operation, transaction) for operation in operations]
            self._commit()
        except BaseException:
            self._forget()
            roll_back(self.connection)
            raise
        return outcomes

    def _catch_up(self) -> None:
        """Forget what another connection may have changed. Asked inside the transaction,
        where no other can commit any more."""
        version = data_version(self.connection)
        if version == self._version:
            return
        self.streams.clear()
        sql = "SELECT number FROM streamstores_changes"
        (self._number,) = self.connection.execute(sql).fetchone()
        self._version = version

    def _forget(self) -> None:
        self.streams.clear()
        self._version = -1

    def _commit(self) -> None:
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if "disk I/O error" in str(exc):
                raise OutcomeUnknown(f"SQLite could not tell if it committed: {exc}") from exc
            raise

    def know(self, stream: Stream) -> Stream:
        if len(self.streams) >= _MOST_KNOWN:
            self.streams.clear()
        self.streams[stream.info.id] = stream
        return stream

    def is_at_the_top(self, stream: Stream) -> bool:
        """Whether watchers look at this stream anyway."""
        return stream.changed == self._number

    def take_number(self) -> int:
        """The number for a stream that was not at the top."""
        if self._sharing >= CROWD:
            self._sharing = 0
            self._number += 1
            sql = "UPDATE streamstores_changes SET number = ?"
            self.connection.execute(sql, (self._number,))
        self._sharing += 1
        return self._number


class Transaction:
    """An open write transaction, and its time."""

    __slots__ = ("connection", "moment", "writer")

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.connection = writer.connection
        self.moment = datetime.now(timezone.utc)

    @property
    def now(self) -> int:
        """The time in microseconds."""
        return bounds.to_microseconds(self.moment)

    def find(self, stream_id: str) -> Stream | None:
        """The stream, also one that has expired."""
        stream = self.writer.streams.get(stream_id)
        if stream is not None:
            return stream
        row = self.connection.execute(SELECT, (stream_id,)).fetchone()
        return None if row is None else self.writer.know(stream_of(row))

    def get(self, stream_id: str) -> Stream:
        stream = self.find(stream_id)
        if stream is None or self.has_expired(stream.info):
            raise StreamNotFound(stream_id)
        return stream

    def has_expired(self, info: StreamInfo) -> bool:
        return info.expires_at is not None and info.expires_at <= self.moment

    def add_records(self, key: int, start: int, chunks: tuple[bytes, ...]) -> None:
        rows: list[tuple[int, int, bytes | None, int | None]] = []
        end = start
        for chunk in chunks:
            end += len(chunk)
            if len(chunk) <= _LARGE_BYTES:
                rows.append((key, end, chunk, None))
            else:
                rows.append((key, end, None, self.add_large(chunk)))
        self.connection.executemany(_INSERT_RECORD, rows)

    def add_large(self, chunk: bytes) -> int:
        number = self.connection.execute(_INSERT_LARGE, (chunk,)).lastrowid
        assert number is not None
        return number

    def end(self, stream_id: str, key: int) -> None:
        """Remove the stream, and let watchers in other processes know."""
        self.remove(stream_id, key)
        self.connection.execute("UPDATE streamstores_changes SET ended = ended + 1")

    def remove(self, stream_id: str, key: int) -> None:
        """Remove the stream now, and file its records to be removed later."""
        self.writer.streams.pop(stream_id, None)
        self.connection.execute("DELETE FROM streamstores_streams WHERE key = ?", (key,))
        self.connection.execute("INSERT INTO streamstores_trash VALUES (?)", (key,))


Operation = Callable[[Transaction], Any]
Outcome = Union[Any, StreamStoreError]


def _outcome(operation: Operation, transaction: Transaction) -> Outcome:
    try:
        return operation(transaction)
    except StreamStoreError as exc:
        return exc


def create(
    transaction: Transaction,
    stream_id: str,
    chunks: tuple[bytes, ...],
    ttl: float | None,
    expires_at: int | None,
    attributes: Mapping[str, str],
    state: State,
) -> StreamInfo:
    existing = transaction.find(stream_id)
    if existing is not None:
        if not transaction.has_expired(existing.info):
            raise StreamExists(f"stream {stream_id!r} exists", existing.info)
        transaction.end(stream_id, existing.key)
    if ttl is not None:
        expires_at = transaction.now + int(ttl * 1_000_000)
    values = (
        stream_id,
        state.value,
        sum(map(len, chunks)),
        bounds.first_version(),
        None,
        attributes_text(attributes),
        transaction.now,
        ttl,
        expires_at,
        transaction.writer.take_number(),
    )
    cursor = transaction.connection.execute(
        "INSERT INTO streamstores_streams"
        " (id, state, tail, version, error, attributes, created_at, ttl, expires_at, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )
    key = cursor.lastrowid
    assert key is not None
    transaction.add_records(key, 0, chunks)
    return transaction.writer.know(stream_of((key, *values))).info


def append(transaction: Transaction, stream_id: str, mutation: Mutation) -> StreamInfo:
    stream = transaction.get(stream_id)
    before = stream.info
    if changes_nothing(before, mutation):
        return before
    refuse(before, mutation)
    after = mutated(before, mutation, transaction.moment)
    _write(transaction, stream, after)
    transaction.add_records(stream.key, before.tail, mutation.chunks)
    return after


def _write(transaction: Transaction, stream: Stream, after: StreamInfo) -> None:
    """Write no more than what changed: each index costs, and each page of the file."""
    key, before, changed = stream
    writer = transaction.writer
    expires_at = after.expires_at and bounds.to_microseconds(after.expires_at)
    if writer.is_at_the_top(stream) and _has_only_grown(before, after):
        values: tuple[Any, ...] = (after.tail, after.version, expires_at, key)
        transaction.connection.execute(_GROW, values)
    else:
        if not writer.is_at_the_top(stream):
            changed = writer.take_number()
        values = (
            after.state.value,
            after.tail,
            after.version,
            after.error,
            attributes_text(after.attributes),
            expires_at,
            changed,
            key,
        )
        transaction.connection.execute(_UPDATE, values)
    writer.know(Stream(key, after, changed))


def _has_only_grown(before: StreamInfo, after: StreamInfo) -> bool:
    return (
        after.state is before.state
        and after.error == before.error
        and after.attributes is before.attributes
    )


def expire(
    transaction: Transaction, stream_id: str, ttl: float | None, expires_at: int | None
) -> StreamInfo:
    key, info, changed = transaction.get(stream_id)
    if ttl is not None:
        expires_at = transaction.now + int(ttl * 1_000_000)
    moment = None if expires_at is None else bounds.from_microseconds(expires_at)
    info = info._replace(ttl=ttl, expires_at=moment)
    if transaction.has_expired(info):
        transaction.end(stream_id, key)
    else:
        transaction.connection.execute(
            "UPDATE streamstores_streams SET ttl = ?, expires_at = ? WHERE key = ?",
            (ttl, expires_at, key),
        )
        transaction.writer.know(Stream(key, info, changed))
    return info


def delete(transaction: Transaction, stream_id: str) -> StreamInfo:
    key, info, _ = transaction.get(stream_id)
    transaction.end(stream_id, key)
    return info


def sweep(transaction: Transaction, limit: int) -> int:
    """Remove up to `limit` expired streams; nobody needs to hear of it."""
    rows = transaction.connection.execute(
        "SELECT id, key FROM streamstores_streams WHERE expires_at <= ? LIMIT ?",
        (transaction.now, limit),
    ).fetchall()
    for stream_id, key in rows:
        transaction.remove(stream_id, key)
    return len(rows)


def purge(transaction: Transaction) -> bool:
    """Remove a slice of the records of ended streams; whether there may be more."""
    row = transaction.connection.execute("SELECT stream FROM streamstores_trash").fetchone()
    if row is None:
        return False
    some = (*row, _PURGE_RECORDS)
    transaction.connection.execute(
        f"DELETE FROM streamstores_large WHERE number IN (SELECT large {_SLICE})", some
    )
    removed = transaction.connection.execute(
        'DELETE FROM streamstores_records WHERE stream = ?1 AND "end" IN'
        f' (SELECT "end" {_SLICE})',
        some,
    ).rowcount
    if removed < _PURGE_RECORDS:
        transaction.connection.execute("DELETE FROM streamstores_trash WHERE stream = ?", row)
    return True
