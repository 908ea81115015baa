"""A stream and its namesakes never have the same `created_at`, which tells them apart."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamstores import SQLiteStreamStore
from streamstores.backends._sqlite import transactions

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(transactions, "datetime", Clock)
    Clock.moment = NOON
    return Clock


class Clock(datetime):
    """Stands still, unless a test moves it."""

    moment = NOON

    @classmethod
    def now(cls, tz=None):
        return cls.moment


async def test_namesakes_made_in_one_group_commit_differ(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
        calls = []
        for _ in range(50):
            calls += [store.delete("a"), store.create("a")]
        infos = (await asyncio.gather(*calls))[1::2]
    assert len({info.created_at for info in infos}) == 50


async def test_namesakes_differ_while_the_clock_stands_still_and_goes_back(path, clock):
    seen = []
    async with SQLiteStreamStore(path) as store, SQLiteStreamStore(path) as other:
        for each in (store, other, store, other):
            info = await each.create("a")
            seen.append(info.created_at)
            assert (await each.info("a")).created_at == info.created_at
            await each.delete("a")
        clock.moment = NOON - timedelta(hours=1)
        for each in (store, other):
            seen.append((await each.create("a")).created_at)
            await each.delete("a")
    assert seen == sorted(set(seen)), "each is later than the one before"


async def test_namesakes_differ_across_a_restart(path, clock):
    seen = []
    for _ in range(3):
        async with SQLiteStreamStore(path) as store:
            seen.append((await store.create("a")).created_at)
            await store.delete("a")
    assert len(set(seen)) == 3


async def test_a_stream_that_replaces_an_expired_one_differs(path, clock):
    async with SQLiteStreamStore(path) as store:
        first = await store.create("a", expires_at=NOON)
        second = await store.create("a")
    assert first.created_at < second.created_at
