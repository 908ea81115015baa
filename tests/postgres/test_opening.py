"""Opening a store: with a URL, on a given pool, and when the server cannot be reached."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
import warnings

import asyncpg
import pytest

from streamstores import (
    InvalidRequest,
    Limits,
    PostgresStreamStore,
    StoreUnavailable,
    follow,
    open_store,
)
from tests.postgres.conftest import new_id, other_server, schema_of, until
from tests.services import free_port
from tests.services.postgres import with_options

FORGETFUL = """
import asyncio, sys
from streamstores import open_store

async def forget():
    store = open_store(sys.argv[1])
    await store.create("forgotten")
    return store

store = asyncio.run(forget())
del store
"""


# ---- opening


async def test_a_wrong_password_is_unavailable_with_the_servers_words(url):
    with pytest.raises(StoreUnavailable, match="password authentication failed"):
        async with open_store(other_server(url, user="postgres:wrong")):
            pass


async def test_an_unknown_database_is_unavailable_with_the_servers_words(url):
    with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
        await open_store(other_server(url, path="/nowhere")).info("a")


async def test_a_server_that_is_down_is_unavailable_and_each_call_tries_again(url):
    store = open_store(other_server(url, host=f"127.0.0.1:{free_port()}"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="[Cc]onnect"):
            await store.create("a")
    await store.aclose()


async def test_a_server_that_never_answers_is_unavailable_within_the_timeout(url):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        store = open_store(with_options(other_server(url, host=host), timeout="0.3"))
        calls = [store.info("a") for _ in range(20)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 15)
        assert {type(result) for result in results} == {StoreUnavailable}
        await store.aclose()


async def test_a_server_without_tls_is_unavailable_if_tls_is_required(url):
    with pytest.raises(StoreUnavailable, match="SSL"):
        async with open_store(with_options(url, sslmode="require")):
            pass


async def test_options_reach_the_server_and_the_pool(url, admin):
    options = {"application_name": "shop", "min_size": 3, "max_size": 4}
    async with open_store(with_options(url, durability="process", **options)) as store:
        await store.create(new_id())
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
        assert await admin.fetchval(sessions) >= 3
        assert [tuple(row) for row in await store._database.run("SHOW synchronous_commit")] == [
            ("off",)
        ]


@pytest.mark.parametrize(
    "option",
    [
        *("colour=red", "notify=perhaps", "max_size=many", "max_size=0", "min_size=11"),
        *("timeout=0", "command_timeout=inf", "poll_interval=-1", "durability=none"),
        *("sslmode=perhaps", "statement_timeout=5", "schema=a-b", "min_size=-1", "timeout=nan"),
        *("statement_cache_size=-1", "target_session_attrs=any-old"),
    ],
)
async def test_an_unknown_or_malformed_option_is_refused(option):
    with pytest.raises(InvalidRequest):
        async with open_store(f"postgresql://localhost/x?{option}"):
            pass


async def test_a_url_that_asyncpg_cannot_read_is_refused():
    for url in ("postgresql://localhost:abc/x", "postgresql://[::1/x"):
        with pytest.raises(InvalidRequest):
            async with PostgresStreamStore.from_url(url):
                pass


# ---- on a given pool


async def test_a_given_pool_stays_open_and_gets_its_connections_back(url):
    async with asyncpg.create_pool(url.partition("?")[0], min_size=2, max_size=2) as pool:
        schema = schema_of(url)
        stream_id = new_id()
        async with PostgresStreamStore(pool, schema=schema) as store:
            info = await store.create(stream_id)
            waiting = asyncio.ensure_future(
                store.wait(stream_id, version=info.version, timeout=30)
            )
            async with open_store(url) as other:
                await other.append(stream_id, b"1")
            assert (await waiting).tail == 1
        assert pool.get_idle_size() == 2
        async with pool.acquire() as one, pool.acquire() as two:
            for each in (one, two):
                assert await each.fetch("SELECT pg_listening_channels()") == []


async def test_a_given_pool_of_one_connection_cannot_serve_notices(url):
    async with asyncpg.create_pool(url.partition("?")[0], min_size=1, max_size=1) as pool:
        with pytest.raises(InvalidRequest, match="two or more"):
            PostgresStreamStore(pool)
        schema = schema_of(url)
        async with PostgresStreamStore(pool, schema=schema, notify=False) as store:
            assert (await store.create(new_id(), b"1")).tail == 1


async def test_a_store_that_is_never_closed_warns_and_its_tasks_end(url):
    before = asyncio.all_tasks()
    store = open_store(url)
    await store.create(new_id())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what earlier tests left: loops of pytest-asyncio 1.0
        gc.collect()
    with pytest.warns(ResourceWarning, match="unclosed.*PostgresStreamStore"):
        del store
        gc.collect()

    async def tasks_are_gone() -> bool:
        return asyncio.all_tasks() <= before

    await until(tasks_are_gone)


def test_a_store_that_outlives_its_loop_only_warns(url):
    command = [sys.executable, "-W", "default", "-c", FORGETFUL, url]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "ResourceWarning: unclosed <PostgresStreamStore" in result.stderr
    assert "Traceback" not in result.stderr


async def test_limits_that_allow_ids_too_long_for_an_index_are_refused(url):
    with pytest.raises(InvalidRequest, match="2600 bytes"):
        PostgresStreamStore(url, limits=Limits(stream_id_bytes=2_601))
    rng = random.Random(1)
    longest = "".join(chr(rng.randrange(0x20000, 0x2A000)) for _ in range(650))
    schema = schema_of(url)
    limits = Limits(stream_id_bytes=2_600)
    target = url.partition("?")[0]
    async with PostgresStreamStore(target, schema=schema, limits=limits) as store:
        assert (await store.create(longest, b"1")).id == longest
        assert [each.id async for each in store.list(longest[:-1])] == [longest]
        await store.delete(longest)


async def test_closing_ends_an_attempt_to_open(url):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = open_store(other_server(url, host=f"127.0.0.1:{silent.getsockname()[1]}"))
        opening = asyncio.ensure_future(store.info("a"))
        await asyncio.sleep(0)
        await asyncio.wait_for(store.aclose(), 15)
        with pytest.raises(StoreUnavailable, match="closed"):
            await opening


# ---- what a store says of itself


def test_a_repr_names_the_database_and_the_tables_without_the_password():
    store = PostgresStreamStore(
        "postgresql://app:s3cret@db.example/app?schema=chats&sslpassword=hidden"
    )
    assert repr(store) == (
        "<PostgresStreamStore postgresql://app:***@db.example/app?sslpassword=*** "
        "schema='chats' table_prefix='streamstores_'>"
    )


async def test_options_mean_the_same_in_a_url_and_as_arguments(url):
    stream_id = new_id()
    async with PostgresStreamStore(url) as store:
        await store.create(stream_id)
        assert f"schema='{schema_of(url)}'" in repr(store)
    async with PostgresStreamStore(url.partition("?")[0], schema=schema_of(url)) as store:
        assert (await store.info(stream_id)).id == stream_id


def test_an_argument_goes_before_the_option_of_the_url():
    url = "postgresql://localhost/x?schema=one&poll_interval=7"
    store = PostgresStreamStore(url, schema="two")
    assert "schema='two'" in repr(store)
    assert store.limits.poll_interval == 7


# ---- fork


def in_a_fork(check) -> int:
    """The exit code of a forked child that runs `check`; 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_is_told_to_open_a_store_of_its_own(url):
    stream_id = new_id()
    async with open_store(url) as store:
        await store.create(stream_id)
        follower = follow(store, stream_id)
        following = asyncio.ensure_future(follower.__anext__())

        def use_the_inherited_store() -> None:
            calls = [
                lambda: store.info(stream_id),
                lambda: store.append(stream_id, b"x"),
                lambda: store.wait(stream_id, version=0, timeout=1),
                store.sweep,
                lambda: store.list().__anext__(),
            ]
            for call in calls:
                with pytest.raises(InvalidRequest, match="fork"):
                    asyncio.run(asyncio.wait_for(call(), 5))
            asyncio.run(asyncio.wait_for(store.aclose(), 5))
            store.__del__()

        assert in_a_fork(use_the_inherited_store) == 0
        # The parent's store goes on as if nothing had happened.
        assert (await store.append(stream_id, b"1")).tail == 1
        assert (await asyncio.wait_for(following, 30)).data == b"1"
