"""What the PostgreSQL tests share: a schema for each module, and a look from outside."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from streamstores import PostgresStreamStore
from tests.services import Unavailable, give_up
from tests.services.postgres import OwnServer, fresh_schema, own_server, shared


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A store URL with a schema that only this module uses."""
    with fresh_schema(shared()) as url:
        yield url


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server that may be killed."""
    try:
        with own_server() as server:
            yield server
    except Unavailable as exc:
        give_up("postgres", exc)


@pytest.fixture
async def admin(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that belongs to no store."""
    async with connection(url) as admin:
        yield admin


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(urlsplit(url)._replace(query="").geturl(), timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


def new_id() -> str:
    return secrets.token_hex(8)


def schema_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["schema"][0]


def table(url: str, name: str) -> str:
    """A table of the store that a URL names, for the test's own statements."""
    return f'"{schema_of(url)}"."streamstores_{name}"'


def other_server(url: str, **parts: str) -> str:
    """The URL with another `user`, `host` or `path`."""
    split = urlsplit(url)
    user, _, host = split.netloc.rpartition("@")
    netloc = f"{parts.get('user', user)}@{parts.get('host', host)}"
    return split._replace(netloc=netloc, path=parts.get("path", split.path)).geturl()


@asynccontextmanager
async def locked(url: str, stream_id: str) -> AsyncIterator[None]:
    """A stream whose row another session holds, so that mutations of it wait."""
    async with connection(url) as holder, holder.transaction():
        row = f"SELECT FROM {table(url, 'streams')} WHERE id = $1 FOR UPDATE"
        assert await holder.fetch(row, stream_id)
        yield


def make_impatient(store: PostgresStreamStore, **seconds: float) -> None:
    """Shorten a store's timeouts once it is open: opening may take long on a busy machine."""
    store._database._options = store._database._options._replace(**seconds)


async def waits_for_a_lock(admin: asyncpg.Connection, name: str) -> bool:
    """Whether a session of this application name waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = $1 AND wait_event_type = 'Lock'"
    )
    return bool(await admin.fetchval(waiting, name))


async def end_sessions(admin: asyncpg.Connection, name: str) -> None:
    """End every session of this application name."""
    sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
    assert await admin.fetch(sessions + "application_name = $1", name)


async def listening(admin: asyncpg.Connection, name: str, instead_of: int = 0) -> int:
    """The process of the listening session, once there is one other than `instead_of`."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 "
        "AND query LIKE 'LISTEN%' AND state = 'idle' AND pid <> $2"
    )
    found: list[int] = []

    async def is_there() -> bool:
        found[:] = [row[0] for row in await admin.fetch(query, name, instead_of)]
        return bool(found)

    await until(is_there)
    return found[0]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for a condition; fail if it does not hold within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not so within {seconds} seconds"
        await asyncio.sleep(0.01)
