"""The writing connection, and transactions that many mutations share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, Union

from streamstores import limits as bounds
from streamstores.backends._sqlite.database import (
    WAL_BYTES,
    DatabaseOptions,
    data_version,
    roll_back,
)
from streamstores.backends._sqlite.rows import StreamRow, find_row
from streamstores.errors import OutcomeUnknown, StreamNotFound, StreamStoreError
from streamstores.mutations import has_expired

CROWD = 64
"""How many streams one process lets share the highest number, and so about how many rows a
watcher looks at after a commit."""

CHECKPOINT_MILLISECONDS = 250
"""How long a forced restart of the WAL may wait for readers; mutations wait as long."""

_MAX_KNOWN = 1_024  # streams, each perhaps with 16 KiB of attributes
_LARGE_BYTES = 900  # a row of a quarter of a page, as SQLite makes them, just holds this
_COMMIT_BYTES = 12_288  # of the WAL, about, besides the records: three pages

_INSERT_RECORD = "INSERT INTO streamstores_records VALUES (?, ?, ?, ?)"
_INSERT_LARGE = "INSERT INTO streamstores_large (data) VALUES (?)"


class WritingConnection:
    """The connection that writes, with the streams that it saw or wrote last.

    What it knows is true as long as no other connection has committed, which it finds out
    inside each transaction. See `docs/decisions/sqlite-known-streams.md`.
    """

    def __init__(self, connection: sqlite3.Connection, options: DatabaseOptions) -> None:
        self.connection = connection
        self.known: dict[str, StreamRow] = {}
        self.is_checkpoint_due = False
        self._options = options
        self._version = -1  # the `data_version` for which the fields above and below hold
        self._number = 0
        self._created_at = 0
        self._has_news = False  # a number or a time that is still to be stored
        self._sharing = CROWD  # streams that took the number from here; unknown at first
        self._unchecked_bytes = 0

    def commit(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Run the operations in one transaction; for each its result, or why it was refused.

        They fail together if SQLite fails, which raises its error. Nothing was applied then,
        except that after `OutcomeUnknown` it may have been.
        """
        # IMMEDIATE takes the write lock now. A transaction that began by reading could not get
        # it later if another connection had committed in between.
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
        self._unchecked_bytes += transaction.written_bytes + _COMMIT_BYTES
        # By an estimate, so that not every commit asks for the size of the file.
        if self._unchecked_bytes > WAL_BYTES // 4:
            self.is_checkpoint_due = True
        return outcomes

    def _catch_up(self) -> None:
        """Forget what another connection may have changed. This is asked inside the
        transaction, because then no other can commit any more."""
        version = data_version(self.connection)
        if version == self._version:
            return
        self.known.clear()
        sql = "SELECT number, created_at FROM streamstores_changes"
        self._number, self._created_at = self.connection.execute(sql).fetchone()
        self._version = version

    def _forget(self) -> None:
        self.known.clear()
        self._has_news = False
        self._version = -1

    def _commit(self) -> None:
        if self._has_news:
            sql = "UPDATE streamstores_changes SET number = ?, created_at = ?"
            self.connection.execute(sql, (self._number, self._created_at))
            self._has_news = False
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as exc:
            # The commit's frame may be in the WAL, and valid, though its flush failed.
            if "disk I/O error" in str(exc):
                raise OutcomeUnknown(f"SQLite could not tell if it committed: {exc}") from exc
            raise

    def know(self, row: StreamRow) -> StreamRow:
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()  # rare, and cheaper than the bookkeeping of a better choice
        self.known[row.info.id] = row
        return row

    def has_highest_number(self, row: StreamRow) -> bool:
        """Whether watchers look at this stream anyway."""
        return row.changed == self._number

    def take_number(self) -> int:
        """The number for a stream whose `changed` is not the highest number."""
        if self._sharing >= CROWD:
            self._sharing = 0
            self._number += 1
            self._has_news = True
        self._sharing += 1
        return self._number

    def take_creation_time(self, now: datetime) -> datetime:
        """Now, or the microsecond after the latest creation in this file if that is later.

        So a stream never has the `created_at` of a namesake, even if both are made in one
        transaction or the clock was set back.
        """
        moment = max(bounds.to_microseconds(now), self._created_at + 1)
        self._created_at = moment
        self._has_news = True
        return bounds.from_microseconds(moment)

    def checkpoint(self) -> None:
        """Restart the WAL if it has grown too large.

        SQLite copies the WAL into the file by itself after every 1,000 pages, but begins it
        anew only in a moment without readers, which may never come. RESTART waits for the
        readers of this moment while no other mutation runs; if they take too long it gives
        up, and the next attempt follows after some more megabytes.
        """
        self.is_checkpoint_due = False
        self._unchecked_bytes = 0
        with suppress(OSError, sqlite3.Error):  # it is not part of any mutation
            if os.path.getsize(f"{self._options.path}-wal") <= WAL_BYTES:
                return
            self.connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
            try:
                self.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                milliseconds = int(self._options.busy_timeout * 1_000)
                self.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


class Transaction:
    """An open write transaction, and its time."""

    __slots__ = ("connection", "moment", "writer", "written_bytes")

    def __init__(self, writer: WritingConnection) -> None:
        self.writer = writer
        self.connection = writer.connection
        self.moment = datetime.now(timezone.utc)
        self.written_bytes = 0

    @property
    def now(self) -> int:
        """The time in microseconds since 1970."""
        return bounds.to_microseconds(self.moment)

    def find(self, stream_id: str) -> StreamRow | None:
        """The stream, even if it has expired."""
        row = self.writer.known.get(stream_id)
        if row is None:
            row = find_row(self.connection, stream_id)
            if row is not None:
                self.writer.know(row)
        return row

    def get(self, stream_id: str) -> StreamRow:
        row = self.find(stream_id)
        if row is None or has_expired(row.info, self.moment):
            raise StreamNotFound(stream_id)
        return row

    def add_records(self, key: int, start: int, chunks: tuple[bytes, ...]) -> None:
        rows: list[tuple[int, int, bytes | None, int | None]] = []
        end = start
        for chunk in chunks:
            end += len(chunk)
            if len(chunk) <= _LARGE_BYTES:
                rows.append((key, end, chunk, None))
            else:
                rows.append((key, end, None, self._add_large(chunk)))
        self.connection.executemany(_INSERT_RECORD, rows)
        self.written_bytes += end - start

    def _add_large(self, chunk: bytes) -> int:
        number = self.connection.execute(_INSERT_LARGE, (chunk,)).lastrowid
        assert number is not None
        return number

    def end(self, stream_id: str, key: int) -> None:
        """Remove the stream, and let watchers in other processes know."""
        self.remove(stream_id, key)
        self.connection.execute("UPDATE streamstores_changes SET ended = ended + 1")

    def remove(self, stream_id: str, key: int) -> None:
        """Remove the stream now, and leave its records to be swept."""
        self.writer.known.pop(stream_id, None)
        self.connection.execute("DELETE FROM streamstores_streams WHERE key = ?", (key,))
        self.connection.execute("INSERT INTO streamstores_unswept VALUES (?)", (key,))


Operation = Callable[[Transaction], Any]
"""A mutation. It checks before it writes, so a refusal leaves nothing behind."""

Outcome = Union[Any, StreamStoreError]


def _outcome(operation: Operation, transaction: Transaction) -> Outcome:
    try:
        return operation(transaction)
    except StreamStoreError as exc:
        return exc
