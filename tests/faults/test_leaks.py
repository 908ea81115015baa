"""Cancelled followers, writers and waiters leave nothing behind, on any store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from streamstores import StreamStoreError, StreamWriter, follow, open_store
from streamstores.store import StreamStore
from tests.faults.measures import holdings
from tests.services import postgres, redis, s3

FEW, SOME, MANY = 150, 1_500, 5_000
AT_ONCE = 25
STREAMS = 5
SETTLES_SECONDS = 60.0

STORES = ["memory", "sqlite", "postgres", "redis", "s3"]


@pytest.fixture(params=[*STORES, pytest.param("redis-cluster", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield "memory://"
        elif request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/streams.db"
        elif request.param == "postgres":
            yield stack.enter_context(postgres.fresh_schema(postgres.shared()))
        elif request.param == "s3":
            yield s3.shared().url()
        else:
            variant = "cluster" if request.param == "redis-cluster" else "valkey"
            yield redis.with_own_prefix(redis.shared(variant))


async def follow_it(store: StreamStore, stream_id: str) -> None:
    async for _ in follow(store, stream_id):
        pass


async def wait_for_it(store: StreamStore, stream_id: str) -> None:
    info = await store.info(stream_id)
    while True:
        info = await store.wait(stream_id, version=info.version, timeout=30)


async def write_it(store: StreamStore, stream_id: str) -> None:
    async with StreamWriter(store, stream_id, fenced=False) as writer:
        while True:
            await writer.write(b"x" * 100)
            await writer.flush()
            await asyncio.sleep(0.001)


WORK = [follow_it, wait_for_it, write_it]


async def cancel_some(store: StreamStore, ids: list[str], count: int, seed: int) -> None:
    """Start `count` of each kind, some at a time, and cancel each at a random moment."""
    dice = random.Random(seed)

    async def one(number: int) -> None:
        work = WORK[number % len(WORK)]
        task = asyncio.ensure_future(work(store, dice.choice(ids)))
        if dice.random() < 0.5:
            for _ in range(dice.randrange(30)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(dice.random() * 0.05)
        task.cancel()
        with suppress(asyncio.CancelledError, StreamStoreError):
            await task

    for begin in range(0, count * len(WORK), AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, count * len(WORK)))
        await asyncio.gather(*(one(number) for number in numbers))


@pytest.mark.parametrize(
    "count",
    [
        FEW,
        pytest.param(SOME, marks=[pytest.mark.long, pytest.mark.slow]),
        pytest.param(MANY, marks=[pytest.mark.release, pytest.mark.slow]),
    ],
)
@pytest.mark.timeout(1800)
async def test_cancelled_followers_writers_and_waiters_leave_nothing(url, count):
    async with open_store(url) as store:
        ids = [f"s{n}" for n in range(STREAMS)]
        for stream_id in ids:
            await store.create(stream_id, b"begin")
        # Pools, threads and caches that the store keeps on purpose have their size after this.
        await cancel_some(store, ids, FEW, seed=1)
        before = holdings(store)
        await cancel_some(store, ids, count, seed=2)
        deadline = time.monotonic() + SETTLES_SECONDS
        while grown := growth(before, holdings(store)):
            assert time.monotonic() < deadline, f"left behind after {count} of each: {grown}"
            await asyncio.sleep(0.1)
        for stream_id in ids:
            await store.delete(stream_id)


async def test_a_leak_would_be_seen() -> None:
    async with open_store("memory://") as store:
        await store.create("s")
        before = holdings(store)
        subscriptions = [store.changes.subscribe("s").start() for _ in range(AT_ONCE + 1)]
        tasks = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(AT_ONCE + 1)]
        grown = growth(before, holdings(store))
        for subscription, task in zip(subscriptions, tasks, strict=True):
            subscription.stop()
            task.cancel()
        assert "tasks" in grown
        assert [name for name in grown if "changes" in name]


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What has grown by more than the calls that may be under way at a moment."""
    return {
        name: (before.get(name, 0), count)
        for name, count in after.items()
        if count > before.get(name, 0) + AT_ONCE
    }
