"""What followed streams cost while nothing happens: one look for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from streamstores import (
    Limits,
    MemoryStreamStore,
    PostgresStreamStore,
    RedisStreamStore,
    SQLiteStreamStore,
    StreamStore,
    follow,
)
from tests.services import PATIENCE, postgres, redis

QUICK = Limits(poll_interval=0.3)
PATIENCE_SECONDS = 120.0


def _operations(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store asks its backend for from now on, one item for each operation."""
    if isinstance(store, SQLiteStreamStore):
        assert store._connections is not None
        places = [(store._connections, "read"), (store._connections.commits, "add")]
    elif isinstance(store, PostgresStreamStore):
        places = [(store._database, "execute")]
    else:
        places = [(store._router, "run")]
    operations: list[str] = []
    for owner, name in places:
        original = getattr(owner, name)

        def counted(*args: Any, _original: Any = original, **options: Any) -> Any:
            operations.append(str(args[0])[:200])
            return _original(*args, **options)

        monkeypatch.setattr(owner, name, counted)
    return operations


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        yield lambda limits: SQLiteStreamStore(tmp_path / "streams.db", limits=limits)
    elif request.param == "redis":
        url = redis.with_options(
            redis.with_own_prefix(redis.shared("valkey")), timeout=PATIENCE
        )
        yield lambda limits: RedisStreamStore(url, limits=limits)
    else:
        with postgres.fresh_schema(postgres.shared()) as fresh:
            # The first reads of so many followers take long on a busy machine.
            url = redis.with_options(fresh, timeout=PATIENCE, command_timeout=PATIENCE)
            yield lambda limits: PostgresStreamStore(url, limits=limits)


async def _followed(store: StreamStore, count: int) -> list[asyncio.Task[Any]]:
    ids = [f"s{number}" for number in range(count)]
    for start in range(0, count, 200):
        await asyncio.gather(*map(store.create, ids[start : start + 200]))
    return [asyncio.create_task(anext(follow(store, each))) for each in ids]


async def test_silent_streams_cost_one_operation_in_each_interval(make_store, monkeypatch):
    async with make_store(QUICK) as store:
        steps = await _followed(store, 400)
        operations = _operations(store, monkeypatch)
        looks = _looks(store, monkeypatch)
        # The first intervals may see the followers begin. Then three in a row are quiet.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (costs := await _cost_of_looks(operations, looks, 3)) != [1, 1, 1]:
            assert time.monotonic() < deadline, costs
        await store.append("s7", b"1")
        assert (await steps[7]).data == b"1"
        await _end(steps)


async def test_lost_notices_about_silent_streams_cost_no_read_of_each(make_store, monkeypatch):
    async with make_store(Limits(poll_interval=3600)) as store:
        steps = await _followed(store, 400)
        operations = _operations(store, monkeypatch)
        await _silence(operations)
        operations.clear()
        looks = _looks(store, monkeypatch)
        await _lose_notices(store, make_store)
        await store.append("s7", b"1")
        assert (await steps[7]).data == b"1"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sum(looks) < 399:  # one has ended by now, or not
            assert time.monotonic() < deadline, looks
            await asyncio.sleep(0.01)
        await _silence(operations)
        assert len(operations) < 100, operations
        await _end(steps)


@pytest.mark.long
async def test_ten_thousand_silent_streams_cost_two_operations_a_second(
    make_store, monkeypatch
):
    limits = Limits()
    async with make_store(limits) as store:
        steps = await _followed(store, 10_000)
        operations = _operations(store, monkeypatch)
        looks = _looks(store, monkeypatch)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            costs = await _cost_of_looks(operations, looks, 10)  # of two intervals
            if sum(costs) <= 2 * limits.poll_interval * 2:
                break
            assert time.monotonic() < deadline, costs
        await _end(steps)


async def test_without_any_backend_silent_followers_ask_nothing(monkeypatch):
    async with MemoryStreamStore(limits=Limits(poll_interval=0.02)) as store:
        await store.create("a")
        step = asyncio.create_task(anext(follow(store, "a")))
        looks = _looks(store, monkeypatch)
        while not looks:
            await asyncio.sleep(0.01)
        reads: list[str] = []
        monkeypatch.setattr(store, "read", lambda stream_id, *args: reads.append(stream_id))
        count = len(looks)
        while len(looks) < count + 3:
            await asyncio.sleep(0.01)
        assert not reads
        await _end([step])


def _looks(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of streams in each question of a safety look from now on."""
    look = store.changes._safety_look
    assert look is not None
    ask, looks = look._look, []

    async def counted(known: Any) -> Any:
        looks.append(len(known))
        return await ask(known)

    monkeypatch.setattr(look, "_look", counted)
    return looks


async def _cost_of_looks(operations: list[str], looks: list[int], count: int) -> list[int]:
    """How many operations there were from each of the next looks to the one after it."""
    costs: list[int] = []
    await asyncio.wait_for(_next_look(looks), PATIENCE_SECONDS)
    for _ in range(count):
        before = len(operations)
        await asyncio.wait_for(_next_look(looks), PATIENCE_SECONDS)
        costs.append(len(operations) - before)
    return costs


async def _next_look(looks: list[int]) -> None:
    seen = len(looks)
    while len(looks) == seen:
        await asyncio.sleep(0.01)


async def _silence(operations: list[str]) -> None:
    """Wait until nothing has been asked for a second."""

    async def is_quiet() -> bool:
        before = len(operations)
        await asyncio.sleep(1)
        return len(operations) == before

    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await is_quiet():
        assert time.monotonic() < deadline, operations[-10:]


async def _lose_notices(store: Any, make_store: Any) -> None:
    """Do what makes the store look for what it may not have heard of."""
    if isinstance(store, SQLiteStreamStore):
        async with make_store(Limits()) as other:
            await other.create("brief")
            await other.delete("brief")
    elif isinstance(store, PostgresStreamStore):
        admin = await asyncpg.connect(postgres.shared())
        try:
            gone = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^LISTEN'"
            )
            await admin.execute(gone)
        finally:
            await admin.close()
    else:
        async with Redis.from_url(redis.shared("valkey")) as admin:
            await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def _end(steps: list[asyncio.Task[Any]]) -> None:
    for step in steps:
        step.cancel()
    await asyncio.gather(*steps, return_exceptions=True)
