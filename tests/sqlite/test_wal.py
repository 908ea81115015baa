"""The WAL stays small although readers never pause, and is cut when they let it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamstores import SQLiteStreamStore
from streamstores.backends._sqlite import database, transactions

LIMIT = 1_048_576
CHUNK = b"x" * 65_536
READ = "SELECT count(*) FROM streamstores_streams"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (database, transactions):
        monkeypatch.setattr(module, "WAL_BYTES", LIMIT)
    return tmp_path / "streams.db"


def wal_bytes(path: Path) -> int:
    return os.path.getsize(f"{path}-wal")


@pytest.fixture
def readers(path: Path) -> Iterator[threading.Event]:
    """From the event on two readers, each of which begins before the other one ends."""
    begin, end = threading.Event(), threading.Event()

    def read() -> None:
        begin.wait()
        with closing(_reader(path)) as one, closing(_reader(path)) as two:
            while not end.is_set():
                for each, other in ((one, two), (two, one)):
                    each.execute("BEGIN")
                    each.execute(READ).fetchone()
                    if other.in_transaction:
                        other.execute("COMMIT")

    thread = threading.Thread(target=read)
    thread.start()
    yield begin
    end.set()
    begin.set()
    thread.join()


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


async def append_until_the_wal_is_cut(store: SQLiteStreamStore, path: Path) -> None:
    deadline = time.monotonic() + 60
    while wal_bytes(path) > LIMIT:
        assert time.monotonic() < deadline, f"the WAL has {wal_bytes(path)} bytes"
        await store.append("a", CHUNK)


async def test_a_wal_is_cut_although_there_is_always_a_reader(path, readers):
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
        readers.set()
        for _ in range(20 * LIMIT // len(CHUNK)):
            await store.append("a", CHUNK)
        await append_until_the_wal_is_cut(store, path)


async def test_a_reader_that_stays_delays_no_mutation_for_long_and_the_wal_is_cut_later(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
        with closing(_reader(path)) as reader:
            reader.execute("BEGIN")
            before = reader.execute(READ).fetchone()
            for _ in range(5 * LIMIT // len(CHUNK)):
                await store.append("a", CHUNK)
            assert wal_bytes(path) > LIMIT, "the WAL has to keep what the reader may ask for"
            assert reader.execute(READ).fetchone() == before
        await append_until_the_wal_is_cut(store, path)


async def test_a_checkpoint_leaves_the_busy_timeout_as_it_was(path):
    async with SQLiteStreamStore(path, busy_timeout=1.5) as store:
        await store.create("a")
        with closing(_reader(path)) as reader:
            reader.execute("BEGIN")
            reader.execute(READ).fetchone()
            for _ in range(3 * LIMIT // len(CHUNK)):
                await store.append("a", CHUNK)
        execute = store._connections.writer.submit(
            lambda connection: connection.execute("PRAGMA busy_timeout").fetchone()
        )
        assert await execute == (1_500,)
