"""Records too large for a row of the tree of keys, which are kept apart."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from streamstores import CorruptData, SQLiteStreamStore
from streamstores.backends._sqlite.transactions import _LARGE_BYTES


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStreamStore]:
    async with SQLiteStreamStore(tmp_path / "streams.db") as store:
        yield store


def value_of(store: SQLiteStreamStore, sql: str, *args: object) -> int:
    with closing(sqlite3.connect(store._options.path)) as other, other:
        row = other.execute(sql, args).fetchone()
        return 0 if row is None else row[0]


SIZES = [1, _LARGE_BYTES - 1, _LARGE_BYTES, _LARGE_BYTES + 1, 5_000, 100_000, 1_048_576]


async def test_records_of_all_sizes_come_back_in_order(store):
    chunks = [bytes([65 + number]) * size for number, size in enumerate(SIZES)]
    await store.create("a", *chunks)
    assert (await store.append("a", *chunks)).tail == 2 * sum(SIZES)
    page = await store.read("a", max_bytes=10_000_000)
    assert [record.data for record in page.records] == chunks * 2
    inside = sum(SIZES[:5]) + 7
    assert (await store.read("a", inside)).records[0].data == chunks[5][7:]
    assert (await store.read("a", inside, max_bytes=1)).records[0].data == chunks[5][7:]


async def test_no_row_of_the_tree_of_keys_needs_another_page(store):
    """SQLite copies such a row whole whenever it compares a key with it."""
    await store.create("a", *(b"x" * size for size in SIZES))
    for size in range(_LARGE_BYTES - 300, _LARGE_BYTES + 300, 20):
        await store.append("a", b"x" * size)
    assert value_of(store, "PRAGMA wal_checkpoint(TRUNCATE)") == 0
    try:
        sql = "SELECT count(*) FROM dbstat WHERE name = ? AND pagetype = 'overflow'"
        assert value_of(store, sql, "streamstores_large") > 0
    except sqlite3.OperationalError:
        pytest.skip("this SQLite was built without dbstat")
    assert value_of(store, sql, "streamstores_records") == 0


async def test_large_records_are_swept_with_their_stream_and_no_other(store, monkeypatch):
    monkeypatch.setattr("streamstores.backends._sqlite.operations.RECORDS_AT_ONCE", 2)
    large = b"x" * 5_000
    await store.create("gone", large, b"small", large, large, b"small")
    await store.create("kept", large, b"small")
    await store.delete("gone")
    await store.sweep()
    assert value_of(store, "SELECT count(*) FROM streamstores_large") == 1
    assert value_of(store, "SELECT count(*) FROM streamstores_records") == 2
    assert [len(record.data) for record in (await store.read("kept")).records] == [5_000, 5]


async def test_a_large_record_that_is_missing_is_corrupt(store):
    await store.create("a", b"1", b"x" * 5_000, b"2")
    value_of(store, "DELETE FROM streamstores_large")
    for offset in (0, 1, 7):
        with pytest.raises(CorruptData):
            await store.read("a", offset)
    assert (await store.read("a", 5_001)).records[0].data == b"2"
