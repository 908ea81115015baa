"""A schema for each trial, dropped at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import asyncpg
from tests.services.postgres import fresh_schema, postgres

from benchmarks.services import Load, Service


@contextmanager
def running() -> Iterator[Service]:
    with postgres() as url:
        yield Service(partial(fresh_schema, url), lambda: asyncio.run(_load(url)))


async def _load(url: str) -> Load:
    connection = await asyncpg.connect(url)
    try:
        await asyncio.sleep(1.1)  # a backend reports what it did at most once a second
        connections = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE client_port > 0"
        )
        operations = await connection.fetchval(
            "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database"
        )
    finally:
        await connection.close()
    return Load(connections - 1, operations)
