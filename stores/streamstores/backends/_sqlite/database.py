"""One SQLite connection and what is done with it: plain functions of a thread.

Every mutation is a function of an open write transaction, so that many of them can share
one commit. It checks before it writes, so one that is refused leaves nothing behind.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from typing import Any, NamedTuple, Union

from streamstores import limits as bounds
from streamstores._rules import Mutation, changes_nothing, mutated, refuse
from streamstores.errors import (
    CorruptData,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.store import Page, Record, State, StreamInfo

MIGRATIONS = ("001_streams.sql",)
"""Applied in order; the schema's version is how many of them were."""

_COLUMNS = "key, id, state, tail, version, error, attributes, created_at, ttl, expires_at"
_SELECT = f"SELECT {_COLUMNS} FROM streamstores_streams WHERE id = ?"
_UPDATE = (
    "UPDATE streamstores_streams SET state = ?, tail = ?, version = ?, error = ?,"
    " attributes = ?, expires_at = ?, changed = ? WHERE key = ?"
)
_NEXT_CHANGED = (
    "SELECT max(changed, ifnull((SELECT max(changed) FROM streamstores_streams), 0)) + 1"
    " FROM streamstores_ended"
)
_INSERT_RECORD = "INSERT INTO streamstores_records VALUES (?, ?, ?)"
_PURGE_RECORDS = 5_000
"""Records removed in one transaction, so that purging never holds up the appends for long."""

# SQLite's messages are older and steadier than Python's access to its codes (3.11).
_SIGNS_OF_CORRUPTION = ("not a database", "malformed", "no such table", "no such column")


class Settings(NamedTuple):
    path: str
    durability: str
    busy_timeout: float


class Stream(NamedTuple):
    """A row: the info, and the key its records are filed under."""

    key: int
    info: StreamInfo


class Transaction:
    """An open write transaction. `now` is its time in microseconds, `moment` the same, and
    `changed` the number of the transaction, which watchers in other processes look for."""

    __slots__ = ("changed", "connection", "moment", "now")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.now = time.time_ns() // 1_000
        self.moment = bounds.from_microseconds(self.now)
        self.changed: int = connection.execute(_NEXT_CHANGED).fetchone()[0]

    def find(self, stream_id: str) -> Stream | None:
        """The stream, unless it never was or has expired."""
        stream = self.find_row(stream_id)
        return None if stream is None or self.has_expired(stream.info) else stream

    def get(self, stream_id: str) -> Stream:
        stream = self.find(stream_id)
        if stream is None:
            raise StreamNotFound(stream_id)
        return stream

    def find_row(self, stream_id: str) -> Stream | None:
        row = self.connection.execute(_SELECT, (stream_id,)).fetchone()
        return None if row is None else stream_of(row)

    def has_expired(self, info: StreamInfo) -> bool:
        return (
            info.expires_at is not None and bounds.to_microseconds(info.expires_at) <= self.now
        )

    def add_records(self, key: int, start: int, chunks: tuple[bytes, ...]) -> None:
        end = start
        for chunk in chunks:
            end += len(chunk)
            self.connection.execute(_INSERT_RECORD, (key, end, chunk))

    def end(self, key: int) -> None:
        """Remove the stream, and let watchers in other processes know."""
        self.remove(key)
        self.connection.execute("UPDATE streamstores_ended SET changed = ?", (self.changed,))

    def remove(self, key: int) -> None:
        """Remove the stream now, and file its records to be removed later."""
        self.connection.execute("DELETE FROM streamstores_streams WHERE key = ?", (key,))
        self.connection.execute("INSERT INTO streamstores_trash VALUES (?)", (key,))


Operation = Callable[[Transaction], Any]
Outcome = Union[Any, StreamStoreError]


def connect(settings: Settings) -> sqlite3.Connection:
    connection = sqlite3.connect(
        settings.path,
        timeout=settings.busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _use_wal(connection, time.monotonic() + settings.busy_timeout)
        synchronous = "FULL" if settings.durability == "power" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to WAL, which is kept in the file. SQLite does not wait for the lock that the
    switch needs, so where many processes open a new file at once this does."""
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise StoreUnavailable(f"SQLite cannot keep a WAL here; its journal mode is {mode}")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to this code's version; safe where many open at once."""
    if schema_version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = schema_version(connection)
        if version > len(MIGRATIONS):
            raise StoreUnavailable(
                f"the database has schema {version}, written by a newer streamstores; "
                f"this one knows schema {len(MIGRATIONS)}"
            )
        for name in MIGRATIONS[version:]:
            for statement in statements_of(name):
                connection.execute(statement)
        connection.execute("DELETE FROM streamstores_schema")
        connection.execute("INSERT INTO streamstores_schema VALUES (?)", (len(MIGRATIONS),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def schema_version(connection: sqlite3.Connection) -> int:
    if connection.in_transaction:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS streamstores_schema (version INTEGER NOT NULL)"
        )
    elif not connection.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'streamstores_schema'"
    ).fetchone():
        return 0
    row = connection.execute("SELECT version FROM streamstores_schema").fetchone()
    return 0 if row is None else int(row[0])


def statements_of(name: str) -> list[str]:
    file = resources.files("streamstores.backends._sqlite") / name
    sql = file.read_text(encoding="utf-8")
    lines = [line for line in sql.splitlines() if not line.startswith("--")]
    return [statement for statement in "\n".join(lines).split(";\n") if statement.strip()]


def commit(
    connection: sqlite3.Connection, operations: Sequence[Operation]
) -> Sequence[Outcome]:
    """Run the operations in one transaction: for each its result, or why it was refused.

    All of them fail together where SQLite fails, which raises its error: nothing was
    applied, except that after `OutcomeUnknown` it may have been.
    """
    outcomes: list[Outcome] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        transaction = Transaction(connection)
        for operation in operations:
            try:
                outcomes.append(operation(transaction))
            except StreamStoreError as exc:
                outcomes.append(exc)
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as exc:
        _roll_back(connection)
        if "disk I/O error" in str(exc):
            raise OutcomeUnknown(f"SQLite could not tell if it committed: {exc}") from exc
        raise
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite rolls back by itself after some errors
        connection.execute("ROLLBACK")


def create(
    transaction: Transaction,
    stream_id: str,
    chunks: tuple[bytes, ...],
    ttl: float | None,
    expires_at: int | None,
    attributes: Mapping[str, str],
    state: State,
) -> StreamInfo:
    existing = transaction.find_row(stream_id)
    if existing is not None:
        if not transaction.has_expired(existing.info):
            raise StreamExists(f"stream {stream_id!r} exists", existing.info)
        transaction.end(existing.key)
    if ttl is not None:
        expires_at = transaction.now + int(ttl * 1_000_000)
    values = (
        stream_id,
        state.value,
        sum(map(len, chunks)),
        bounds.first_version(),
        None,
        _attributes_text(attributes),
        transaction.now,
        ttl,
        expires_at,
    )
    cursor = transaction.connection.execute(
        "INSERT INTO streamstores_streams"
        " (id, state, tail, version, error, attributes, created_at, ttl, expires_at, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, transaction.changed),
    )
    key = cursor.lastrowid
    assert key is not None
    transaction.add_records(key, 0, chunks)
    return stream_of((key, *values)).info


def append(transaction: Transaction, stream_id: str, mutation: Mutation) -> StreamInfo:
    key, info = transaction.get(stream_id)
    if changes_nothing(info, mutation):
        return info
    refuse(info, mutation)
    after = mutated(info, mutation, transaction.moment)
    expires_at = after.expires_at and bounds.to_microseconds(after.expires_at)
    transaction.connection.execute(
        _UPDATE,
        (
            after.state.value,
            after.tail,
            after.version,
            after.error,
            _attributes_text(after.attributes),
            expires_at,
            transaction.changed,
            key,
        ),
    )
    transaction.add_records(key, info.tail, mutation.chunks)
    return after


def expire(
    transaction: Transaction, stream_id: str, ttl: float | None, expires_at: int | None
) -> StreamInfo:
    key, info = transaction.get(stream_id)
    if ttl is not None:
        expires_at = transaction.now + int(ttl * 1_000_000)
    moment = None if expires_at is None else bounds.from_microseconds(expires_at)
    info = info._replace(ttl=ttl, expires_at=moment)
    if transaction.has_expired(info):
        transaction.end(key)
    else:
        transaction.connection.execute(
            "UPDATE streamstores_streams SET ttl = ?, expires_at = ? WHERE key = ?",
            (ttl, expires_at, key),
        )
    return info


def delete(transaction: Transaction, stream_id: str) -> StreamInfo:
    key, info = transaction.get(stream_id)
    transaction.end(key)
    return info


def sweep(transaction: Transaction, limit: int) -> int:
    """Remove up to `limit` expired streams; nobody needs to hear of it."""
    rows = transaction.connection.execute(
        "SELECT key FROM streamstores_streams WHERE expires_at <= ? LIMIT ?",
        (transaction.now, limit),
    ).fetchall()
    for (key,) in rows:
        transaction.remove(key)
    return len(rows)


def purge(transaction: Transaction) -> bool:
    """Remove a slice of the records of ended streams; whether there may be more."""
    row = transaction.connection.execute("SELECT stream FROM streamstores_trash").fetchone()
    if row is None:
        return False
    removed = transaction.connection.execute(
        'DELETE FROM streamstores_records WHERE stream = ?1 AND "end" IN'
        ' (SELECT "end" FROM streamstores_records WHERE stream = ?1 LIMIT ?2)',
        (row[0], _PURGE_RECORDS),
    ).rowcount
    if removed < _PURGE_RECORDS:
        transaction.connection.execute("DELETE FROM streamstores_trash WHERE stream = ?", row)
    return True


def info(connection: sqlite3.Connection, stream_id: str) -> StreamInfo:
    return _living(connection, stream_id).info


def read(connection: sqlite3.Connection, stream_id: str, offset: int, max_bytes: int) -> Page:
    """The stream and its records in one snapshot, which the transaction is there for."""
    connection.execute("BEGIN")
    try:
        key, stream = _living(connection, stream_id)
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
        f"SELECT {_COLUMNS} FROM streamstores_streams WHERE id > ? AND id >= ?"
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
    row = connection.execute(_SELECT, (stream_id,)).fetchone()
    if row is None or (row[9] is not None and row[9] <= time.time_ns() // 1_000):
        raise StreamNotFound(stream_id)
    return stream_of(row)


def stream_of(row: Any) -> Stream:
    key, stream_id, state, tail, version, error, attributes, created_at, ttl, expires_at = row
    return Stream(
        key,
        StreamInfo(
            stream_id,
            _STATES[state],
            tail,
            version,
            error,
            json.loads(attributes) if attributes else {},
            bounds.from_microseconds(created_at),
            ttl,
            None if expires_at is None else bounds.from_microseconds(expires_at),
        ),
    )


_STATES = {state.value: state for state in State}


def _attributes_text(attributes: Mapping[str, str]) -> str | None:
    return json.dumps(dict(attributes)) if attributes else None


def translated(exc: sqlite3.Error, path: str) -> StreamStoreError:
    """Our error for one of SQLite's. What is not corrupt is unavailable: a busy, full,
    read-only or unreadable database took nothing."""
    text = str(exc)
    is_corrupt = any(sign in text for sign in _SIGNS_OF_CORRUPTION)
    return (CorruptData if is_corrupt else StoreUnavailable)(f"SQLite, {path}: {text}")
