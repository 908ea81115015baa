"""The SQLite file: how it is opened, its schema, and what its errors mean."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import NamedTuple

from streamstores import logs
from streamstores.errors import CorruptData, StoreUnavailable, StreamStoreError

MIGRATIONS = ("001_streams.sql",)
"""Applied in order; the schema's version is the number of migrations that were applied."""

WAL_BYTES = 16_777_216
"""What the WAL may grow to before its restart is forced, and what is kept of its file then."""

MAX_BUSY_TIMEOUT_SECONDS = 2_000_000.0  # SQLite counts the milliseconds in an int

# SQLite's messages are older and steadier than Python's access to its codes (3.11).
_SIGNS_OF_CORRUPTION = ("not a database", "malformed", "no such table", "no such column")

_log = logging.getLogger("streamstores.sqlite")


class DatabaseOptions(NamedTuple):
    """What every connection to the file needs to know."""

    path: str
    durability: str
    busy_timeout: float
    """Seconds that a connection waits for the locks of others."""


def connect(options: DatabaseOptions, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    """A connection to the file in WAL mode. It may be used in any thread, one at a time."""
    connection = sqlite3.connect(
        options.path,
        timeout=options.busy_timeout,
        isolation_level=None,  # transactions are begun and ended explicitly
        check_same_thread=False,
        factory=factory,
    )
    try:
        _use_wal(connection, time.monotonic() + options.busy_timeout)
        synchronous = "FULL" if options.durability == "power" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # Without a limit SQLite keeps the WAL's file as large as it ever was.
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to WAL mode, which the file remembers.

    SQLite does not wait for the lock that the switch needs, so this does: many processes may
    open a new file at once.
    """
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
    """Bring the schema up to this code's version; safe if many processes open at once."""
    # A first look without the lock, so that opening does not wait for writers.
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
            for statement in _statements_of(name):
                connection.execute(statement)
        connection.execute("DELETE FROM streamstores_schema")
        connection.execute("INSERT INTO streamstores_schema VALUES (?)", (len(MIGRATIONS),))
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def schema_version(connection: sqlite3.Connection) -> int:
    """0 for a file without our tables; inside a transaction it makes the table of versions."""
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


def _statements_of(name: str) -> list[str]:
    file = resources.files("streamstores.backends._sqlite") / name
    sql = file.read_text(encoding="utf-8")
    # Statement by statement, because `executescript` commits the open transaction first.
    lines = [line for line in sql.splitlines() if not line.startswith("--")]
    return [statement for statement in "\n".join(lines).split(";\n") if statement.strip()]


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite rolls back by itself after some errors
        connection.execute("ROLLBACK")


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection, of any process, has committed.

    (https://www.sqlite.org/pragma.html#pragma_data_version)
    """
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the bug of https://www.sqlite.org/wal.html#walresetbug."""
    if version[:2] in ((3, 44), (3, 50)):  # these two got the fix as well
        return version < ((3, 44, 6) if version[1] == 44 else (3, 50, 7))
    return (3, 7, 0) <= version < (3, 51, 3)


@cache
def warn_of_wal_reset_bug() -> None:
    """Log a warning, once in a process, if its SQLite can corrupt a database in WAL mode.

    It is a log message and not a Python warning, because the program is not at fault: an
    error filter should not make the store unusable with the SQLite of most systems.
    """
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        _log.warning(
            "SQLite %s has a bug that can, very rarely, corrupt a database that several "
            "processes write to at once; 3.51.3, 3.50.7 and 3.44.6 are without it "
            "(https://www.sqlite.org/wal.html#walresetbug)",
            sqlite3.sqlite_version,
            extra=logs.event("sqlite.wal_reset_bug"),
        )


@contextmanager
def translate_errors(path: str) -> Generator[None, None, None]:
    """Turn every error of SQLite into one of the contract's."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translated(exc, path) from exc


def translated(exc: sqlite3.Error, path: str) -> StreamStoreError:
    """The contract's error for one of SQLite's.

    Everything but corruption is `StoreUnavailable`, because a busy, full, read-only or
    unreadable database has applied nothing.
    """
    text = str(exc)
    is_corrupt = any(sign in text for sign in _SIGNS_OF_CORRUPTION)
    return (CorruptData if is_corrupt else StoreUnavailable)(f"SQLite, {path}: {text}")
