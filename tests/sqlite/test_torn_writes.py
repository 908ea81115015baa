"""A WAL whose end was torn off, or written in part, as a power loss leaves it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from streamstores import SQLiteStreamStore

RECORDS = [b"<%03d>" % number * 20 for number in range(60)]
DAMAGES = 60


async def content_of(path: Path) -> bytes:
    async with SQLiteStreamStore(path) as store:
        page = await store.read("a", max_bytes=10_000_000)
        assert page.next_offset == page.info.tail
        return b"".join(record.data for record in page.records)


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """The files of a store whose process ended without closing it."""
    path = tmp_path / "living.db"
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
        # So that the stream itself is safe, and only appends are in the WAL.
        execute = store._connections.writer.submit(
            lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        )
        await execute
        for record in RECORDS:
            await store.append("a", record)
        copy = tmp_path / "crashed.db"
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


def damaged(crashed: Path, number: int, kind: str) -> Path:
    """A copy with a WAL that ends, or is zero, or is noise, from a random place on."""
    dice = random.Random(number)
    path = crashed.with_name(f"{kind}-{number}.db")
    shutil.copy(crashed, path)
    wal = Path(f"{crashed}-wal").read_bytes()
    place = dice.randrange(len(wal))
    length = min(dice.choice((1, 512, 4096, len(wal))), len(wal) - place)
    rest = {
        "cut": b"",
        "zeros": bytes(length) + wal[place + length :],
        "noise": dice.randbytes(length) + wal[place + length :],
    }[kind]
    Path(f"{path}-wal").write_bytes(wal[:place] + rest)
    return path


@pytest.mark.parametrize("kind", ["cut", "zeros", "noise"])
async def test_a_torn_wal_loses_whole_appends_from_the_end_and_nothing_else(crashed, kind):
    whole = b"".join(RECORDS)
    ends = {len(RECORDS[0]) * count for count in range(len(RECORDS) + 1)}
    kept = set()
    for number in range(DAMAGES):
        data = await content_of(damaged(crashed, number, kind))
        assert whole.startswith(data), f"damage {number}"
        assert len(data) in ends, f"damage {number} left a part of an append"
        kept.add(len(data))
    assert len(kept) > 5, "the damage was not spread over the WAL"
    assert await content_of(crashed) == whole


async def test_a_store_goes_on_after_a_torn_wal(crashed):
    path = damaged(crashed, 1, "cut")
    before = await content_of(path)
    async with SQLiteStreamStore(path) as store:
        await store.append("a", b"more", at=len(before), state="done")
    assert await content_of(path) == before + b"more"
