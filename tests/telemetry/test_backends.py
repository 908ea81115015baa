"""What only a backend knows: waits for connections, lost notices, sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from streamstores import (
    PostgresStreamStore,
    RedisStreamStore,
    S3StreamStore,
    SQLiteStreamStore,
    StreamStore,
    follow,
)
from streamstores.backends._s3.call_threads import CallNotStarted, CallThreads
from tests.redis.helpers import server_or_skip
from tests.services import postgres, s3
from tests.services.redis import Server
from tests.telemetry.recording import Recording


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with postgres.fresh_schema(postgres.shared()) as url:
        yield url


@pytest.fixture
def redis_server() -> Iterator[Server]:
    with server_or_skip() as server:
        yield server


async def until_counted(recording: Recording, name: str, **attributes: object) -> None:
    while not recording.value(name, **attributes):
        await asyncio.sleep(0.02)


async def test_a_wait_for_a_connection_of_postgres_is_measured(
    recording: Recording, postgres_url: str
) -> None:
    store = PostgresStreamStore(postgres.with_options(postgres_url, max_size=1, min_size=1))
    async with recording.instrument(store) as store:
        await asyncio.gather(*(store.create(f"s{n}") for n in range(5)))
    assert recording.value("pool.wait.duration", streamstores_store="postgres") >= 4


async def test_a_wait_for_a_thread_of_s3_is_measured(recording: Recording) -> None:
    recording.instrument(S3StreamStore(s3.shared().url()))
    threads = CallThreads(1)
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()

    holding = asyncio.ensure_future(threads.run(hold, 60, changes=False))
    await asyncio.sleep(0)
    with pytest.raises(CallNotStarted):
        await threads.run(lambda: None, 0.01, changes=False)
    released.set()
    await holding
    await threads.aclose(1)
    assert recording.value("pool.wait.duration", streamstores_store="s3") == 1


async def test_each_loss_of_the_notices_of_postgres_is_counted(
    recording: Recording, postgres_url: str
) -> None:
    async with recording.instrument(PostgresStreamStore(postgres_url)) as store:
        await store.create("s")
        following = asyncio.ensure_future(follow(store, "s").__anext__())
        admin = await asyncpg.connect(postgres.shared())
        try:
            while not recording.value("notices.reconnects"):
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
                )
                await asyncio.sleep(0.05)
        finally:
            await admin.close()
        await store.append("s", b"x")
        await following
    assert recording.value("notices.reconnects", streamstores_store="postgres") >= 1


async def test_each_loss_of_the_notices_of_redis_is_counted(
    recording: Recording, redis_server: Server
) -> None:
    async with recording.instrument(RedisStreamStore(redis_server.url)) as store:
        await store.create("s")
        following = asyncio.ensure_future(follow(store, "s").__anext__())
        while not recording.value("notices.reconnects", streamstores_store="redis"):
            redis_server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.05)
        await store.append("s", b"x")
        await following


@pytest.mark.parametrize("name", ["sqlite", "postgres", "s3"])
async def test_a_sweep_is_counted_with_its_streams(
    recording: Recording, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    inner: StreamStore
    if name == "sqlite":
        inner = SQLiteStreamStore(tmp_path / "x.db")
    elif name == "postgres":
        inner = PostgresStreamStore(request.getfixturevalue("postgres_url"))
    else:
        inner = S3StreamStore(s3.shared().url())
    async with recording.instrument(inner) as store:
        await store.create("s", ttl=0.1)
        while not recording.value("swept.streams", streamstores_store=name):
            with suppress(asyncio.TimeoutError):
                await store.sweep()
                await asyncio.sleep(0.05)
    assert recording.value("swept.streams", streamstores_store=name) == 1
    assert recording.value("sweeps", streamstores_store=name) >= 1


async def test_delivery_across_two_objects_is_measured(
    recording: Recording, redis_server: Server
) -> None:
    async with (
        recording.instrument(RedisStreamStore(redis_server.url)) as reader,
        RedisStreamStore(redis_server.url) as writer,
    ):
        await writer.create("s")
        follower = follow(reader, "s")
        step = asyncio.ensure_future(follower.__anext__())
        while not recording.value("followers.active"):
            await asyncio.sleep(0.02)
        while not recording.value("delivery.duration", streamstores_store="redis"):
            await writer.append("s", b"x")
            await step
            step = asyncio.ensure_future(follower.__anext__())
        step.cancel()
        await follower.aclose()
