"""The SQLite file: its settings, its connections, its schema, and what its rows mean."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple

from streamstores import limits as bounds
from streamstores.errors import CorruptData, StoreUnavailable, StreamStoreError
from streamstores.store import State, StreamInfo

MIGRATIONS = ("001_streams.sql",)
"""Applied in order; the schema's version is how many of them were."""

COLUMNS = (
    "key, id, state, tail, version, error, attributes, created_at, ttl, expires_at, changed"
)
SELECT = f"SELECT {COLUMNS} FROM streamstores_streams WHERE id = ?"

# SQLite's messages are older and steadier than Python's access to its codes (3.11).
_SIGNS_OF_CORRUPTION = ("not a database", "malformed", "no such table", "no such column")


class Settings(NamedTuple):
    path: str
    durability: str
    busy_timeout: float


class Stream(NamedTuple):
    """A row: the info, the key its records are filed under, and its `changed`."""

    key: int
    info: StreamInfo
    changed: int


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
        roll_back(connection)
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


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite rolls back by itself after some errors
        connection.execute("ROLLBACK")


def data_version(connection: sqlite3.Connection) -> int:
    """A number that differs from the last one if another connection, of this process or
    another, has committed meanwhile. (https://www.sqlite.org/pragma.html#pragma_data_version)
    """
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def stream_of(row: Any) -> Stream:
    key, stream_id, state, tail, version, error, attributes, created_at, ttl = row[:9]
    expires_at, changed = row[9:]
    info = StreamInfo(
        stream_id,
        _STATES[state],
        tail,
        version,
        error,
        # Frozen, because what is handed out is also what the writer knows.
        MappingProxyType(json.loads(attributes) if attributes else {}),
        bounds.from_microseconds(created_at),
        ttl,
        None if expires_at is None else bounds.from_microseconds(expires_at),
    )
    return Stream(key, info, changed)


_STATES = {state.value: state for state in State}


def attributes_text(attributes: Mapping[str, str]) -> str | None:
    return json.dumps(dict(attributes)) if attributes else None


def translated(exc: sqlite3.Error, path: str) -> StreamStoreError:
    """Our error for one of SQLite's. What is not corrupt is unavailable: a busy, full,
    read-only or unreadable database took nothing."""
    text = str(exc)
    is_corrupt = any(sign in text for sign in _SIGNS_OF_CORRUPTION)
    return (CorruptData if is_corrupt else StoreUnavailable)(f"SQLite, {path}: {text}")
