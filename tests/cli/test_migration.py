"""The command `migrate`, on a SQLite file and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from typer.testing import CliRunner

from streamstores import cli, open_store
from tests.services import postgres as servers


def migrate(url: str, *arguments: str):
    return CliRunner().invoke(
        cli.build_app(), ["migrate", "--store", url, *arguments], catch_exceptions=False
    )


def ask(url: str, *statements: str) -> list[Any]:
    """The rows of the last statement."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(urlsplit(url)._replace(query="").geturl())
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return [tuple(row) for row in await connection.fetch(statements[-1])]
        finally:
            await connection.close()

    return asyncio.run(run())


def apply(url: str, script: str) -> None:
    ask(url, script, "SELECT 1")


@pytest.fixture
def url() -> Iterator[str]:
    with servers.fresh_schema(servers.shared()) as url:
        yield url


def schema_of(url: str) -> str:
    return url.rpartition("schema=")[2]


def tables_of(url: str) -> list[Any]:
    """The columns and the indexes, without the schema's name."""
    schema = schema_of(url)
    columns = ask(
        url,
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        f"FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY 1, 2",
    )
    indexes = ask(
        url, f"SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1"
    )
    migrations = ask(
        url, f"SELECT number, file FROM {schema}.streamstores_migrations ORDER BY 1"
    )
    definitions = [definition.replace(schema, "") for (definition,) in indexes]
    return [columns, definitions, migrations]


def test_the_printed_sql_makes_what_opening_the_store_makes(url):
    script = migrate(url, "--dump-sql")
    assert script.exit_code == 0
    apply(url, script.stdout)
    with servers.fresh_schema(servers.shared()) as opened:
        result = migrate(opened)
        assert (result.exit_code, result.stdout) == (
            0,
            "the schema of the store is up to date\n",
        )
        assert tables_of(url) == tables_of(opened)


def test_the_printed_sql_changes_nothing_if_the_tables_are_there(url):
    migrate(url)
    before = tables_of(url)
    with pytest.raises(asyncpg.DuplicateTableError):
        apply(url, migrate(url, "--dump-sql").stdout)
    assert tables_of(url) == before


def test_a_user_without_the_right_to_create_uses_tables_that_another_has_made(url):
    schema, user = schema_of(url), f"u{secrets.token_hex(6)}"
    netloc = urlsplit(url).netloc.rpartition("@")[2]
    as_user = urlsplit(url)._replace(netloc=f"{user}:pw@{netloc}").geturl()
    ask(url, f"CREATE ROLE {user} LOGIN PASSWORD 'pw'", "SELECT 1")
    try:
        refused = migrate(as_user)
        assert refused.exit_code == 5
        assert len(refused.stderr.splitlines()) == 1

        apply(url, migrate(url, "--dump-sql").stdout)
        tables = f"ON ALL TABLES IN SCHEMA {schema} TO {user}"
        ask(url, f"GRANT USAGE ON SCHEMA {schema} TO {user}", "SELECT 1")
        ask(url, f"GRANT SELECT, INSERT, UPDATE, DELETE {tables}", "SELECT 1")
        assert migrate(as_user).exit_code == 0

        async def use() -> None:
            async with open_store(as_user) as store:
                await store.create("a", b"b")

        asyncio.run(use())
    finally:
        ask(url, f"DROP OWNED BY {user}", f"DROP ROLE {user}", "SELECT 1")


def test_the_printed_sql_names_the_tables_of_the_url(url):
    script = migrate(f"{url}&table_prefix=other_", "--dump-sql").stdout
    assert f'CREATE TABLE "{schema_of(url)}"."other_streams"' in script
    assert "streamstores_" not in script


def test_there_is_no_sql_after_the_newest_schema(url):
    result = migrate(url, "--dump-sql", "--after", "999")
    assert (result.exit_code, result.stdout) == (2, "")
    assert migrate(url, "--after", "1").exit_code == 2


def test_a_sqlite_file_is_made_and_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "streams.db"
    url = f"sqlite:///{path}"
    assert migrate(url).exit_code == 0
    assert migrate(url).exit_code == 0
    assert migrate(url, "--dump-sql").exit_code == 2
    connection = sqlite3.connect(path)
    connection.execute("UPDATE streamstores_schema SET version = 99")
    connection.commit()
    connection.close()
    result = migrate(url)
    assert (result.exit_code, "newer" in result.stderr) == (5, True)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "s3://bucket", "memory://"])
def test_a_store_without_a_schema_has_nothing_to_migrate(url):
    result = migrate(url)
    assert (result.exit_code, "nothing to migrate" in result.stdout) == (0, True)
