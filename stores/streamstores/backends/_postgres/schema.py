"""The schema: its names, its statements, and the migrations that make it.

A migration is a file `NNN_name.sql`, applied once and never changed. One must leave every
statement of the release before it working, because both run side by side while a fleet is
updated.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from streamstores.errors import InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from streamstores.backends._postgres.connecting import Connection

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
_COLUMNS = "state, tail, version, error, attributes, created_at, ttl, expires_at"


class Names(NamedTuple):
    """Where the tables are."""

    schema: str
    table_prefix: str

    def table(self, name: str) -> str:
        return f'"{self.schema}"."{self.table_prefix}{name}"'

    @property
    def channel(self) -> str:
        """The name of what identifies this namespace in its database: notices, locks."""
        return f"{self.schema}.{self.table_prefix}"


def check_names(schema: str, table_prefix: str) -> Names:
    """The names, which go into statements as they are; raises `InvalidRequest`."""
    if not _IDENTIFIER.fullmatch(schema):
        raise InvalidRequest(f"schema is 1 to 48 letters, digits and _, not {schema!r}")
    if table_prefix and not _IDENTIFIER.fullmatch(table_prefix):
        raise InvalidRequest(
            f"table_prefix is up to 48 letters, digits and _, not {table_prefix!r}"
        )
    return Names(schema, table_prefix)


class Statements:
    """The SQL files, with the tables' names in them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.create = self.statement("create")
        self.append = self.statement("append")
        self.read = self.statement("read")
        self.info = self.statement("info")
        self.expire = self.statement("expire")
        self.delete = self.statement("delete")
        self.list = self.statement("list")
        self.sweep = self.statement("sweep")
        self.reclaim = self.statement("reclaim")
        self.changed = self.statement("changed")

    def statement(self, name: str) -> str:
        return _sql_file(f"{name}.sql").format(
            streams=self._names.table("streams"),
            records=self._names.table("records"),
            columns=_COLUMNS,
        )


def migrations() -> list[tuple[int, str]]:
    """Number and file name of each, in order."""
    folder = files("streamstores.backends._postgres")
    names = sorted(each.name for each in folder.iterdir() if each.name[:3].isdigit())
    return [(int(name[:3]), name) for name in names]


async def migrate(connection: Connection, names: Names, *, up_to: int | None = None) -> None:
    """Bring the schema up to date, in one transaction that others wait for.

    Asks first without a lock and needs no right to create where nothing is missing. A schema
    that a newer release has migrated further is taken as it is.
    """
    _check_encoding(connection)
    wanted = [each for each in migrations() if up_to is None or each[0] <= up_to]
    async with connection.transaction():  # a pooler keeps a transaction on one server
        if await _version(connection, names) >= wanted[-1][0]:
            return
    async with connection.transaction():
        lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
        await connection.execute(lock, names.channel)
        await _create_home(connection, names)
        done = await _version(connection, names)
        for number, file in wanted:
            if number > done:
                await _apply(connection, names, number, file)


async def _version(connection: Connection, names: Names) -> int:
    table = names.table("migrations")
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return 0
    version: int = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {table}")
    return version


async def _create_home(connection: Connection, names: Names) -> None:
    exists = await connection.fetchval("SELECT to_regnamespace($1)", f'"{names.schema}"')
    if exists is None:
        await connection.execute(f'CREATE SCHEMA "{names.schema}"')
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {names.table('migrations')} (number int PRIMARY KEY, "
        "file text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )


async def _apply(connection: Connection, names: Names, number: int, file: str) -> None:
    statements = _sql_file(file).format(
        streams=names.table("streams"), records=names.table("records")
    )
    await connection.execute(statements)
    await connection.execute(
        f"INSERT INTO {names.table('migrations')} (number, file) VALUES ($1, $2)", number, file
    )


def _check_encoding(connection: Connection) -> None:
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise StoreUnavailable(f"the database's encoding is {encoding}: ids need UTF8")


@cache
def _sql_file(name: str) -> str:
    return (files("streamstores.backends._postgres") / name).read_text(encoding="utf-8")
