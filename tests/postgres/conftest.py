"""What the PostgreSQL tests share: a schema for each module, and a look from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

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


def table(url: str, name: str) -> str:
    """The table of the store that a URL names, for a statement of one's own."""
    schema = parse_qs(urlsplit(url).query)["schema"][0]
    return f'"{schema}"."streamstores_{name}"'


@asynccontextmanager
async def locked(url: str, stream_id: str) -> AsyncIterator[None]:
    """A stream whose row somebody else holds, so that mutations of it wait."""
    async with connection(url) as holder, holder.transaction():
        row = f"SELECT FROM {table(url, 'streams')} WHERE id = $1 FOR UPDATE"
        assert await holder.fetch(row, stream_id)
        yield


async def waits_for_a_lock(admin: asyncpg.Connection, name: str) -> bool:
    """Whether a session of this application name stands before a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = $1 AND wait_event_type = 'Lock'"
    )
    return bool(await admin.fetchval(waiting, name))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Look until it holds; fail where it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not so within {seconds} seconds"
        await asyncio.sleep(0.01)
