"""The sqlite3 module in its own thread: an append is a transaction and a hop to the thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from benchmarks.subjects import Subject, Take

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS streams (id TEXT PRIMARY KEY, tail INTEGER, version INTEGER)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (stream TEXT, "end" INTEGER, data BLOB,
    PRIMARY KEY (stream, "end")) WITHOUT ROWID;
"""
_UPDATE = (
    "UPDATE streams SET tail = tail + ?, version = version + 1 WHERE id = ? RETURNING tail"
)
_INSERT = "INSERT INTO records VALUES (?, ?, ?)"
_READ = 'SELECT "end", data FROM records WHERE stream = ? AND "end" > ? ORDER BY "end" LIMIT ?'
_PAGE = 1_000
_LOOK_SECONDS = 0.005


class RawSQLite(Subject):
    """WAL, synchronous=NORMAL: what our store uses by default. An append wakes the readers of
    its process; for those of others, each looks at `PRAGMA data_version` every 5 ms."""

    async def open(self) -> None:
        self._writer = ThreadPoolExecutor(1)
        self._reader = ThreadPoolExecutor(1)
        self._write_connection = await self._in(self._writer, self._connect)
        self._read_connection = await self._in(self._reader, self._connect)
        self._waiters: set[asyncio.Future[None]] = set()

    async def aclose(self) -> None:
        await self._in(self._writer, self._write_connection.close)
        await self._in(self._reader, self._read_connection.close)
        self._writer.shutdown()
        self._reader.shutdown()

    async def create(self, stream_id: str) -> None:
        await self._in(self._writer, self._insert_stream, stream_id)

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            await self._in(self._writer, self._append, stream_id, chunk)
            self._wake()

    async def fill(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        await self._in(self._writer, self._append_all, stream_id, chunks)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self._in(self._writer, self._append, stream_id, chunk)
            self._wake()

    async def follow(self, stream_id: str, take: Take) -> None:
        end = 0
        while True:
            seen = await self._in(self._reader, self._data_version)
            while rows := await self._in(self._reader, self._read, stream_id, end):
                for _, data in rows:
                    take(data)
                end = rows[-1][0]
            while not await self._woken():
                if await self._in(self._reader, self._data_version) != seen:
                    break

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _woken(self) -> bool:
        """Whether this process appended within the next 5 ms."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        done, _ = await asyncio.wait([waiter], timeout=_LOOK_SECONDS)
        self._waiters.discard(waiter)
        return bool(done)

    @staticmethod
    async def _in(thread: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *args)

    def _connect(self) -> sqlite3.Connection:
        path = unquote(urlsplit(self.url).path[1:])
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        return connection

    def _insert_stream(self, stream_id: str) -> None:
        self._write_connection.execute("INSERT INTO streams VALUES (?, 0, 0)", (stream_id,))

    def _append(self, stream_id: str, chunk: bytes) -> None:
        self._append_all(stream_id, [chunk])

    def _append_all(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        connection = self._write_connection
        connection.execute("BEGIN IMMEDIATE")
        for chunk in chunks:
            (tail,) = connection.execute(_UPDATE, (len(chunk), stream_id)).fetchone()
            connection.execute(_INSERT, (stream_id, tail, chunk))
        connection.execute("COMMIT")

    def _read(self, stream_id: str, end: int) -> list[tuple[int, bytes]]:
        rows = self._read_connection.execute(_READ, (stream_id, end, _PAGE))
        return rows.fetchall()

    def _data_version(self) -> int:
        version: int = self._read_connection.execute("PRAGMA data_version").fetchone()[0]
        return version
