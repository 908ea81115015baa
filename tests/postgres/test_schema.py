"""The tables: made once, by any process, and migrated step by step."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from streamstores import (
    InvalidRequest,
    PostgresStreamStore,
    StoreUnavailable,
    StreamNotFound,
    open_store,
)
from streamstores.backends._postgres.schema import Names, migrate, migrations
from tests.postgres.conftest import connection, table
from tests.services.postgres import fresh_schema, shared, with_options

CATALOG = """
SELECT table_name, column_name, ordinal_position, data_type, is_nullable, collation_name,
    is_identity, attstorage, reloptions
FROM information_schema.columns
JOIN pg_class ON relname = table_name AND relnamespace = to_regnamespace(table_schema)
JOIN pg_attribute ON attrelid = pg_class.oid AND attname = column_name
WHERE table_schema = $1 ORDER BY table_name, ordinal_position
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 ORDER BY indexname"

OPENER = """
import asyncio, sys
from streamstores import open_store
async def main():
    async with open_store(sys.argv[1]) as store:
        await store.create(sys.argv[2])
asyncio.run(main())
"""


@pytest.fixture
def empty() -> Iterator[str]:
    with fresh_schema(shared()) as url:
        yield url


async def test_stores_that_open_at_once_make_the_tables_once(empty):
    stores = [open_store(empty) for _ in range(8)]
    await asyncio.gather(*(store.__aenter__() for store in stores))
    await asyncio.gather(*(store.create(f"s{n}") for n, store in enumerate(stores)))
    assert len([each async for each in stores[0].list()]) == 8
    for store in stores:
        await store.aclose()
    async with connection(empty) as admin:
        numbers = await admin.fetch(f"SELECT number FROM {table(empty, 'migrations')}")
    assert [number for (number,) in numbers] == [number for number, _ in migrations()]


async def test_two_processes_may_open_a_new_schema_at_once(empty):
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", OPENER, empty, f"s{n}")
        for n in range(2)
    ]
    exits = [await asyncio.wait_for(process.wait(), 60) for process in processes]
    assert exits == [0, 0]
    async with open_store(empty) as store:
        assert {each.id async for each in store.list()} == {"s0", "s1"}


async def catalog(admin: asyncpg.Connection, schema: str) -> tuple[list[tuple], list[str]]:
    columns = [tuple(row) for row in await admin.fetch(CATALOG, schema)]
    indexes = [row[0].replace(schema, "") for row in await admin.fetch(INDEXES, schema)]
    return columns, indexes


async def test_a_fresh_schema_is_the_sum_of_its_migrations():
    token = secrets.token_hex(4)
    at_once, in_steps = f"once_{token}", f"steps_{token}"
    async with connection(shared()) as admin:
        try:
            await migrate(admin, Names(at_once, "x_"))
            for number, _ in migrations():
                await migrate(admin, Names(in_steps, "x_"), up_to=number)
            expected = await catalog(admin, at_once)
            assert len(expected[0]) > 10
            assert len(expected[1]) >= 4
            assert await catalog(admin, in_steps) == expected
        finally:
            await admin.execute(f"DROP SCHEMA IF EXISTS {at_once}, {in_steps} CASCADE")


async def test_migrations_are_numbered_from_one_without_a_gap():
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_schema_of_a_newer_release_is_used_as_it_is(empty):
    async with open_store(empty) as store:
        await store.create("a", b"kept")
    async with connection(empty) as admin:
        newer = f"INSERT INTO {table(empty, 'migrations')} VALUES (999, 'of the future')"
        await admin.execute(newer)
        streams = table(empty, "streams")
        await admin.execute(f"ALTER TABLE {streams} ADD COLUMN colour text DEFAULT 'red'")
    async with open_store(empty) as store:
        assert (await store.append("a", b"!")).tail == 5


async def test_a_user_without_the_right_to_create_works_in_an_existing_schema(empty):
    async with open_store(empty) as owner, connection(empty) as admin:
        schema = table(empty, "streams").partition(".")[0]
        user = f"clerk_{secrets.token_hex(4)}"
        await admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'pass'")
        try:
            await admin.execute(
                f"GRANT USAGE ON SCHEMA {schema} TO {user};"
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "
                f"{schema} TO {user}"
            )
            async with open_store(as_user(empty, user)) as store:
                await store.create("a", b"mine", ttl=60)
                await store.delete("a")
                assert await store.sweep() == 0
            with pytest.raises(StreamNotFound):
                await owner.info("a")
        finally:
            await admin.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_a_user_without_the_right_to_create_is_told_so_if_tables_are_missing(empty):
    async with connection(empty) as admin:
        user = f"clerk_{secrets.token_hex(4)}"
        await admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'pass'")
        try:
            with pytest.raises(StoreUnavailable, match="permission denied"):
                async with open_store(as_user(empty, user)):
                    pass
        finally:
            await admin.execute(f"DROP ROLE {user}")


def as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:pass@{parts.hostname}:{parts.port}").geturl()


async def test_prefixes_keep_streams_apart_in_one_schema(empty):
    one, two = (with_options(empty, table_prefix=prefix) for prefix in ("one_", "Two_"))
    async with open_store(one) as first, open_store(two) as second:
        await first.create("a", b"1")
        await second.create("a", b"22")
        assert [(await store.info("a")).tail for store in (first, second)] == [1, 2]
        assert [each.tail async for each in second.list()] == [2]


async def test_a_database_that_cannot_hold_every_id_is_refused():
    name = f"ascii_{secrets.token_hex(4)}"
    async with connection(shared()) as admin:
        await admin.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
        try:
            url = urlsplit(shared())._replace(path=f"/{name}").geturl()
            with pytest.raises(StoreUnavailable, match="UTF8"):
                async with open_store(url):
                    pass
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("name", ["", "a-b", 'x"; DROP TABLE y', "1st", "é", "x" * 49, "a\n"])
def test_a_name_that_is_not_an_identifier_is_refused(name):
    with pytest.raises(InvalidRequest, match="schema"):
        PostgresStreamStore("postgresql://localhost/x", schema=name)
    if name:
        with pytest.raises(InvalidRequest, match="table_prefix"):
            PostgresStreamStore("postgresql://localhost/x", table_prefix=name)
