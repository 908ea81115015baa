"""Pages of records: bounded, and without a hole."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from streamstores import CorruptData, SQLiteStreamStore, follow


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStreamStore]:
    async with SQLiteStreamStore(tmp_path / "streams.db") as store:
        yield store


async def test_a_page_of_tiny_records_is_bounded_and_the_next_goes_on(store, monkeypatch):
    monkeypatch.setattr("streamstores.backends._sqlite.queries.MAX_RECORDS", 3)
    chunks = [b"%d" % number for number in range(7)]
    await store.create("a", *chunks, state="done")
    page = await store.read("a")
    assert [record.data for record in page.records] == chunks[:3]
    assert page.next_offset == 3
    assert [record.data async for record in follow(store, "a")] == chunks


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
async def test_a_hole_is_found_from_wherever_a_read_begins(store, offset):
    await store.create("a", b"11", b"22", b"33", b"44")
    with closing(sqlite3.connect(store._options.path)) as other, other:
        other.execute("""DELETE FROM streamstores_records WHERE "end" = 4""")
    with pytest.raises(CorruptData):
        await store.read("a", offset)
    assert [record.offset for record in (await store.read("a", 5)).records] == [5, 6]
