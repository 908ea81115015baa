"""The schema: its names, its statements, and the migrations that make it.

A migration is a file `NNN_name.sql`. It is applied once and never changed. It must leave every
statement of the release before it working, because both releases run side by side while a
fleet is updated.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from streamstores.errors import InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Connection

CHANNEL_BYTES = 63
"""The longest channel that NOTIFY takes; LISTEN would cut a longer name without an error.
(NAMEDATALEN - 1: https://www.postgresql.org/docs/current/sql-notify.html)"""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
# The row of an append that waits for the row's lock, and of one that never waits.
_ROW = "id = $1"
_FREE_ROW = "key = (SELECT key FROM {streams} WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)"
_COLUMNS = "state, tail, version, error, attributes, created_at, updated_at, ttl, expires_at"


class Names(NamedTuple):
    """The schema and the beginning of the names of the store's tables."""

    schema: str
    table_prefix: str

    def table(self, name: str) -> str:
        return f'"{self.schema}"."{self.table_prefix}{name}"'

    @property
    def channel(self) -> str:
        """What identifies these tables within the database: for notices and for locks."""
        return f"{self.schema}.{self.table_prefix}"


def check_names(schema: str, table_prefix: str, *, notify: bool) -> Names:
    """The names, which go into statements as they are. Raises `InvalidRequest`."""
    if not _IDENTIFIER.fullmatch(schema):
        raise InvalidRequest(f"schema is 1 to 48 letters, digits and _, not {schema!r}")
    if table_prefix and not _IDENTIFIER.fullmatch(table_prefix):
        raise InvalidRequest(
            f"table_prefix is up to 48 letters, digits and _, not {table_prefix!r}"
        )
    names = Names(schema, table_prefix)
    if notify and len(names.channel) > CHANNEL_BYTES:
        raise InvalidRequest(
            f"schema and table_prefix together are at most {CHANNEL_BYTES - 1} characters, "
            f"because they name the channel of notices, not {len(names.channel) - 1}; "
            "with notify=False they may be longer"
        )
    return names


class Statements:
    """The SQL files, with the names of the tables filled in."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.create = self._statement("create")
        self.append = self._statement("append", "append_alone", row=_ROW)
        self.append_grouped = self._statement("append", "append_grouped", row=_FREE_ROW)
        self.confirm = self._statement("confirm")
        self.read = self._statement("read")
        self.info = self._statement("info")
        self.expire = self._statement("expire")
        self.delete = self._statement("delete")
        self.list = self._statement("list")
        self.sweep_streams = self._statement("sweep_streams")
        self.sweep_records = self._statement("sweep_records")
        self.changed = self._statement("changed")

    def _statement(self, *names: str, row: str = "") -> str:
        streams = self._names.table("streams")
        return "".join(_sql_file(f"{name}.sql") for name in names).format(
            streams=streams,
            records=self._names.table("records"),
            columns=_COLUMNS,
            row=row.format(streams=streams),
        )


def migrations() -> list[tuple[int, str]]:
    """The number and the file name of each migration, in order."""
    folder = files("streamstores.backends._postgres")
    names = sorted(each.name for each in folder.iterdir() if each.name[:3].isdigit())
    return [(int(name[:3]), name) for name in names]


async def migrate(connection: Connection, names: Names, *, up_to: int | None = None) -> None:
    """Bring the schema up to date in one transaction, under an advisory lock.

    It looks first without the lock, and needs no right to create if nothing is missing. A
    schema that a newer release has migrated further is used as it is.
    """
    _check_encoding(connection)
    wanted = [each for each in migrations() if up_to is None or each[0] <= up_to]
    async with connection.transaction():  # a pooler keeps a transaction on one server
        if await _schema_version(connection, names) >= wanted[-1][0]:
            return
    async with connection.transaction():
        # The lock ends with the transaction. Looking again under it: another process may have
        # made the tables meanwhile.
        lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
        await connection.execute(lock, names.channel)
        # CREATE TABLE IF NOT EXISTS is no protection: two of them at once can fail on the
        # unique index of the catalogue.
        await _create_migrations_table(connection, names)
        done = await _schema_version(connection, names)
        for number, file in wanted:
            if number > done:
                await _apply(connection, names, number, file)


def migration_script(names: Names, after: int = 0) -> str:
    """The SQL that `migrate` would run on a database with the schema `after`, as one
    transaction for psql; 0 is a database without the tables.

    Raises `InvalidRequest` if there is no later schema.
    """
    wanted = [each for each in migrations() if each[0] > after]
    if not wanted:
        raise InvalidRequest(
            f"the newest schema is {migrations()[-1][0]}, none is after {after}"
        )
    # The same lock as that of `migrate`, so that a store that opens meanwhile waits.
    lock = f"SELECT pg_advisory_xact_lock(hashtextextended('{names.channel}', 0));"
    parts = ["BEGIN;", lock]
    if after == 0:
        parts += [f'CREATE SCHEMA IF NOT EXISTS "{names.schema}";']
        parts += [f"{_migrations_table(names)};"]
    for number, file in wanted:
        row = f"INSERT INTO {names.table('migrations')} (number, file)"
        parts += [
            "",
            _migration(names, file).strip(),
            "",
            f"{row} VALUES ({number}, '{file}');",
        ]
    return "\n".join([*parts, "COMMIT;", ""])


def _migrations_table(names: Names) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {names.table('migrations')} (number int PRIMARY KEY, "
        "file text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )


def _migration(names: Names, file: str) -> str:
    return _sql_file(file).format(
        streams=names.table("streams"), records=names.table("records")
    )


async def _schema_version(connection: Connection, names: Names) -> int:
    table = names.table("migrations")
    # `to_regclass` gives NULL where a SELECT would fail, and a failed statement ends the
    # transaction.
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return 0
    version: int = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {table}")
    return version


async def _create_migrations_table(connection: Connection, names: Names) -> None:
    exists = await connection.fetchval("SELECT to_regnamespace($1)", f'"{names.schema}"')
    if exists is None:  # CREATE SCHEMA IF NOT EXISTS asks for the right to create in any case
        await connection.execute(f'CREATE SCHEMA "{names.schema}"')
    await connection.execute(_migrations_table(names))


async def _apply(connection: Connection, names: Names, number: int, file: str) -> None:
    await connection.execute(_migration(names, file))
    await connection.execute(
        f"INSERT INTO {names.table('migrations')} (number, file) VALUES ($1, $2)", number, file
    )


def _check_encoding(connection: Connection) -> None:
    # No question to the server, which reports this with every connection. A pooler may leave it
    # out.
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"the encoding of the database is {encoding}; stream ids need UTF8"
        )


@cache
def _sql_file(name: str) -> str:
    return (files("streamstores.backends._postgres") / name).read_text(encoding="utf-8")
