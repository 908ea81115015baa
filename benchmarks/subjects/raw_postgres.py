"""asyncpg: one statement an append, NOTIFY to one listening connection, then SELECT."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import asyncpg

from benchmarks.subjects import Subject, Take, take_option

_APPEND = """
WITH applied AS (
    UPDATE {schema}.streams SET tail = tail + octet_length($2::bytea), version = version + 1
    WHERE id = $1 RETURNING key, tail
)
INSERT INTO {schema}.records SELECT key, tail, $2::bytea FROM applied
"""
_APPEND_AND_NOTIFY = """
WITH noticed AS (SELECT pg_notify('{schema}', $1)), applied AS (
    UPDATE {schema}.streams SET tail = tail + octet_length($2::bytea), version = version + 1
    WHERE id = $1 RETURNING key, tail
)
INSERT INTO {schema}.records SELECT key, tail, $2::bytea FROM applied, noticed
"""
_READ = """
SELECT end_offset, data FROM {schema}.records
WHERE stream_key = (SELECT key FROM {schema}.streams WHERE id = $1)
    AND end_offset > $2 AND end_offset <= $2 + 1048576
ORDER BY end_offset
"""
_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.streams (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" UNIQUE,
    tail bigint NOT NULL, version bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS {schema}.records (
    stream_key bigint, end_offset bigint, data bytea, PRIMARY KEY (stream_key, end_offset));
ALTER TABLE {schema}.records ALTER data SET STORAGE EXTERNAL;
"""
POOL_SIZE = 10


class RawPostgres(Subject):
    """`append_each` without, `produce` with a notice in the same statement."""

    async def open(self) -> None:
        url, schema = take_option(self.url, "schema")
        self._schema = schema
        self._pool = await asyncpg.create_pool(url, min_size=1, max_size=POOL_SIZE)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7)")
            await connection.execute(_SCHEMA.format(schema=schema))
        self._append = _APPEND.format(schema=schema)
        self._append_and_notify = _APPEND_AND_NOTIFY.format(schema=schema)
        self._listener: asyncpg.Connection | None = None
        self._listening = asyncio.Lock()
        self._bells: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def aclose(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._pool.close()

    async def create(self, stream_id: str) -> None:
        sql = f"INSERT INTO {self._schema}.streams (id, tail, version) VALUES ($1, 0, 0)"
        await self._pool.execute(sql, stream_id)

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            await self._pool.execute(self._append, stream_id, chunk)

    async def fill(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        await self._pool.executemany(self._append, [(stream_id, chunk) for chunk in chunks])

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self._pool.execute(self._append_and_notify, stream_id, chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        async with self._listening:
            if self._listener is None:
                self._listener = await asyncpg.connect(take_option(self.url, "schema")[0])
                await self._listener.add_listener(self._schema, self._on_notice)
        bell = self._bells[stream_id]
        read = _READ.format(schema=self._schema)
        end = 0
        while True:
            bell.clear()
            rows = await self._pool.fetch(read, stream_id, end)
            for _, data in rows:
                take(data)
            if not rows:
                await bell.wait()
                continue
            end = rows[-1][0]

    def _on_notice(
        self, _connection: object, _pid: int, _channel: str, payload: object
    ) -> None:
        self._bells[str(payload)].set()


class PreparedPostgres(RawPostgres):
    """The append and its notice as one prepared statement, on a connection of its own: without
    the way through a pool, the least that a producer can do."""

    async def open(self) -> None:
        await super().open()
        self._own = await asyncpg.connect(take_option(self.url, "schema")[0])
        self._prepared = await self._own.prepare(self._append_and_notify)
        self._turn = asyncio.Lock()

    async def aclose(self) -> None:
        await self._own.close()
        await super().aclose()

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            async with self._turn:
                await self._prepared.fetch(stream_id, chunk)
