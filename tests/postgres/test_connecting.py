"""What callers get when the server cannot be reached, refuses, waits, dies and comes back."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg
import pytest

from streamstores import (
    Conflict,
    CorruptData,
    InvalidRequest,
    Limits,
    OutcomeUnknown,
    PostgresStreamStore,
    StoreUnavailable,
    StreamNotFound,
    StreamWriter,
    open_store,
)
from tests.postgres.conftest import connection, locked, table, until, waits_for_a_lock
from tests.services import free_port
from tests.services.postgres import shared, with_options

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


def id_() -> str:
    return secrets.token_hex(8)


def changed(url: str, **parts: str) -> str:
    split = urlsplit(url)
    user, _, host = split.netloc.rpartition("@")
    netloc = f"{parts.get('user', user)}@{parts.get('host', host)}"
    return split._replace(netloc=netloc, path=parts.get("path", split.path)).geturl()


# --- opening ---


async def test_a_wrong_password_is_unavailable_with_the_servers_words(url):
    with pytest.raises(StoreUnavailable, match="password authentication failed"):
        async with open_store(changed(url, user="postgres:wrong")):
            pass


async def test_an_unknown_database_is_unavailable_with_the_servers_words(url):
    with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
        await open_store(changed(url, path="/nowhere")).info("a")


async def test_a_server_that_is_down_is_unavailable_and_each_call_tries_anew(url):
    store = open_store(changed(url, host=f"127.0.0.1:{free_port()}"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="[Cc]onnect"):
            await store.create("a")
    await store.aclose()


async def test_a_server_that_never_answers_is_unavailable_within_the_timeout(url):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        store = open_store(with_options(changed(url, host=host), timeout="0.3"))
        calls = [store.info("a") for _ in range(20)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 15)
        assert {type(result) for result in results} == {StoreUnavailable}
        await store.aclose()


async def test_tls_that_the_server_does_not_speak_is_unavailable(url):
    with pytest.raises(StoreUnavailable, match="SSL"):
        async with open_store(with_options(url, sslmode="require")):
            pass


async def test_options_reach_the_server_and_the_pool(url, admin):
    options = {"application_name": "shop", "min_size": 3, "max_size": 4}
    async with open_store(with_options(url, durability="process", **options)) as store:
        await store.create(id_())
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
async def test_an_option_that_nobody_knows_or_understands_is_refused(option):
    with pytest.raises(InvalidRequest):
        async with open_store(f"postgresql://localhost/x?{option}"):
            pass


async def test_a_url_that_asyncpg_cannot_read_is_refused():
    for url in ("postgresql://localhost:abc/x", "postgresql://[::1/x"):
        with pytest.raises(InvalidRequest):
            async with PostgresStreamStore.from_url(url):
                pass


# --- a pool that was given ---


async def test_a_given_pool_stays_open_and_gets_its_connections_back(url):
    async with asyncpg.create_pool(url.partition("?")[0], min_size=2, max_size=2) as pool:
        schema = table(url, "streams").partition(".")[0].strip('"')
        stream_id = id_()
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


async def test_a_given_pool_of_one_cannot_give_a_connection_away_for_notices(url):
    async with asyncpg.create_pool(url.partition("?")[0], min_size=1, max_size=1) as pool:
        with pytest.raises(InvalidRequest, match="two or more"):
            PostgresStreamStore(pool)
        schema = table(url, "streams").partition(".")[0].strip('"')
        async with PostgresStreamStore(pool, schema=schema, notify=False) as store:
            assert (await store.create(id_(), b"1")).tail == 1


async def test_a_store_that_is_forgotten_open_warns_and_its_tasks_end(url):
    before = asyncio.all_tasks()
    store = open_store(url)
    await store.create(id_())
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
    assert "ResourceWarning: unclosed <streamstores" in result.stderr
    assert "Traceback" not in result.stderr


async def test_ids_that_no_index_holds_are_refused_when_they_are_asked_for(url):
    with pytest.raises(InvalidRequest, match="2600 bytes"):
        PostgresStreamStore(url, limits=Limits(stream_id_bytes=2_601))
    rng = random.Random(1)
    longest = "".join(chr(rng.randrange(0x20000, 0x2A000)) for _ in range(650))
    schema = table(url, "streams").partition(".")[0].strip('"')
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
        store = open_store(changed(url, host=f"127.0.0.1:{silent.getsockname()[1]}"))
        opening = asyncio.ensure_future(store.info("a"))
        await asyncio.sleep(0)
        await asyncio.wait_for(store.aclose(), 15)
        with pytest.raises(StoreUnavailable, match="closed"):
            await opening


# --- refused by the server: nothing was applied ---


async def test_what_the_server_refuses_was_not_applied(url, admin):
    stream_id, name = id_(), id_()
    async with open_store(url) as store:
        before = await store.create(stream_id)
        for option in ("lock_timeout=50", "statement_timeout=50"):
            impatient = with_options(url, options=f"-c {option}", application_name=name)
            async with open_store(impatient) as other, locked(url, stream_id):
                with pytest.raises(StoreUnavailable, match="timeout"):
                    await other.append(stream_id, b"1")
        assert await store.info(stream_id) == before


async def test_a_read_only_server_is_read_from(url):
    stream_id = id_()
    read_only = with_options(url, options="-c default_transaction_read_only=on")
    async with open_store(url) as store, open_store(read_only) as other:
        await store.create(stream_id, b"1")
        assert (await other.read(stream_id)).records[0].data == b"1"
        for call in (other.append(stream_id, b"2"), other.create(id_()), other.sweep()):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call


async def test_no_connection_left_on_the_server_is_unavailable(url):
    user = f"crowd_{id_()}"
    async with connection(url) as admin:
        await admin.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD 'x'")
        await admin.execute(f"ALTER ROLE {user} NOSUPERUSER CONNECTION LIMIT 0")
        try:
            with pytest.raises(StoreUnavailable, match="too many connections"):
                await open_store(changed(url, user=f"{user}:x")).info("a")
        finally:
            await admin.execute(f"DROP ROLE {user}")


async def test_a_pool_in_use_is_unavailable_after_the_timeout(url):
    busy = with_options(url, max_size=1, timeout=0.2, application_name=(name := id_()))
    stream_id = id_()
    async with connection(url) as admin, open_store(busy) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            waiting = asyncio.ensure_future(store.append(stream_id, b"1"))
            await until(lambda: waits_for_a_lock(admin, name))
            with pytest.raises(StoreUnavailable):
                await store.info(stream_id)
        assert (await waiting).tail == 1


async def test_statements_that_wait_take_over_connections_past_the_pool(url, monkeypatch):
    async with open_store(with_options(url, max_size=2)) as store:
        acquire, taken = store._database._acquire, []

        async def counting():
            taken.append(await acquire())
            return taken[-1]

        monkeypatch.setattr(store._database, "_acquire", counting)
        infos = [store.create(f"{id_()}", b"%d" % number) for number in range(50)]
        assert len({info.id for info in await asyncio.gather(*infos)}) == 50
        assert len(taken) == 2


async def test_those_who_wait_get_their_turn_in_the_order_they_came(url, admin):
    name, stream_id = id_(), id_()
    async with open_store(with_options(url, max_size=1, application_name=name)) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            appends = [
                asyncio.ensure_future(store.append(stream_id, b"%d" % number))
                for number in range(10)
            ]
            await until(lambda: waits_for_a_lock(admin, name))
        assert [info.tail for info in await asyncio.gather(*appends)] == [*range(1, 11)]
        page = await store.read(stream_id)
        assert b"".join(record.data for record in page.records) == b"0123456789"


async def test_whoever_gives_up_waiting_takes_no_connection_with_it(url):
    """Cancelled at any moment: waiting, with its turn just come, or in the statement."""
    rng = random.Random(3)
    async with open_store(with_options(url, max_size=2)) as store:
        stream_id = id_()
        await store.create(stream_id)
        for _ in range(40):
            calls = [asyncio.ensure_future(store.info(stream_id)) for _ in range(12)]
            patient = rng.sample(calls, 4)
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            for call in calls[: rng.randrange(12)]:
                if call not in patient:
                    call.cancel()
                    if rng.random() < 0.5:
                        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(results[calls.index(each)].id == stream_id for each in patient)
        await _has_connections(store, url, 2)


async def test_those_who_wait_for_a_session_that_is_cut_get_another(url, admin):
    name, stream_id = id_(), id_()
    async with open_store(with_options(url, max_size=2, application_name=name)) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            cut = [asyncio.ensure_future(store.append(stream_id, b"1")) for _ in range(2)]
            waiting = [asyncio.ensure_future(store.info(stream_id)) for _ in range(10)]
            await until(lambda: waits_for_a_lock(admin, name))
            await terminate(admin, name)
            assert {info.id for info in await asyncio.gather(*waiting)} == {stream_id}
        results = await asyncio.gather(*cut, return_exceptions=True)
        assert OutcomeUnknown in {type(result) for result in results}
        await _has_connections(store, url, 2)


async def test_calls_that_still_wait_for_a_connection_end_before_the_store_is_closed(url):
    stream_id = id_()
    store = open_store(with_options(url, max_size=1))
    await store.create(stream_id)
    appends = [asyncio.ensure_future(store.append(stream_id, b"x")) for _ in range(20)]
    await asyncio.sleep(0)  # all are under way
    await store.aclose()
    assert [info.tail for info in await asyncio.gather(*appends)] == [*range(1, 21)]


async def _has_connections(store: PostgresStreamStore, url: str, count: int) -> None:
    """Fail where fewer statements than `count` can be under way at once, or one more."""
    ids = [id_() for _ in range(count)]
    for stream_id in ids:
        await store.create(stream_id)
    async with AsyncExitStack() as locks:
        for stream_id in ids:
            await locks.enter_async_context(locked(url, stream_id))
        # Each holds its connection until the lock is gone.
        appends = [asyncio.ensure_future(store.append(each, b"1")) for each in ids[1:]]
        assert (await store.info(ids[0])).tail == 0
        appends.append(asyncio.ensure_future(store.append(ids[0], b"1")))
        one_more = asyncio.ensure_future(store.info(ids[0]))
        assert not (await asyncio.wait([one_more], timeout=0.2))[0]
    await asyncio.gather(*appends)
    await one_more


# --- cancelled, or cut in mid-call ---


async def test_a_cancelled_append_leaves_its_connection_to_the_next(url, admin):
    stream_id, name = id_(), id_()
    async with open_store(with_options(url, max_size=1, application_name=name)) as store:
        before = await store.create(stream_id)
        for _ in range(5):
            async with locked(url, stream_id):
                append = asyncio.ensure_future(store.append(stream_id, b"1"))
                await until(lambda: waits_for_a_lock(admin, name))
                append.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await append
            assert await store.info(stream_id) == before
        assert (await store.append(stream_id, b"1", at=0)).tail == 1


async def test_a_timeout_in_mid_append_leaves_the_outcome_open(url):
    stream_id = id_()
    async with open_store(with_options(url, command_timeout=0.2)) as store:
        before = await store.create(stream_id)
        async with locked(url, stream_id):
            with pytest.raises(OutcomeUnknown):
                await store.append(stream_id, b"1")
        assert await store.info(stream_id) == before


async def test_a_session_cut_in_mid_append_leaves_the_outcome_open(url, admin):
    stream_id, name = id_(), id_()
    async with open_store(with_options(url, application_name=name)) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            append = asyncio.ensure_future(store.append(stream_id, b"1"))
            await until(lambda: waits_for_a_lock(admin, name))
            await terminate(admin, name)
            with pytest.raises(OutcomeUnknown):
                await append
        assert (await store.append(stream_id, b"2")).tail == 1


async def terminate(admin: asyncpg.Connection, name: str) -> None:
    sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
    assert await admin.fetch(sessions + "application_name = $1", name)


async def test_a_killed_server_is_unavailable_and_used_again_when_it_is_back(server):
    """Killed in mid-append, then down, then up again: the process need not restart."""
    stream_id, name = id_(), id_()
    options = {"application_name": name, "timeout": 2, "max_size": 1}
    url = with_options(server.url, schema="streams", **options)
    async with open_store(url) as store:
        before = await store.create(stream_id, b"kept")
        async with connection(url) as admin:
            try:
                async with locked(url, stream_id):
                    append = asyncio.ensure_future(store.append(stream_id, b"1"))
                    await until(lambda: waits_for_a_lock(admin, name))
                    await asyncio.to_thread(server.kill)
                    with pytest.raises(OutcomeUnknown):
                        await append
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pass  # the connection that held the row is gone as well
        with pytest.raises(StoreUnavailable):
            await store.read(stream_id)
        with pytest.raises(StoreUnavailable):
            await store.append(stream_id, b"1")
        await asyncio.to_thread(server.start)
        assert await store.info(stream_id) == before
        assert (await store.append(stream_id, b"!", version=before.version)).tail == 5
        with pytest.raises(Conflict):
            await store.append(stream_id, b"!", version=before.version)


async def test_a_writer_goes_on_through_a_restart_without_loss_or_repetition(server):
    stream_id = id_()
    url = with_options(server.url, schema="streams", timeout=2)
    async with open_store(url) as store:
        await store.create(stream_id)
        writer = StreamWriter(store, stream_id)
        for number in range(300):
            await writer.write(b"<%d>" % number)
            if number == 150:
                await asyncio.to_thread(server.stop)
                restart = asyncio.ensure_future(asyncio.to_thread(server.start))
        await restart
        await writer.aclose(state="done")
        page = await store.read(stream_id)
        expected = b"".join(b"<%d>" % number for number in range(300))
        assert b"".join(record.data for record in page.records) == expected


async def test_a_row_that_no_store_wrote_is_corrupt_data(url, admin):
    async with open_store(url) as store:
        for damage in ("state = 'odd'", "attributes = '['", "error = 'no JSON'", "tail = 99"):
            stream_id = id_()
            await store.create(stream_id, b"1")
            update = f"UPDATE {table(url, 'streams')} SET {damage} WHERE id = $1"
            await admin.execute(update, stream_id)
            with pytest.raises(CorruptData):
                await store.read(stream_id, 1)


async def test_tables_that_vanished_are_unavailable(url):
    gone = with_options(shared(), schema=f"gone_{id_()}")
    async with open_store(gone) as store:
        async with connection(gone) as admin:
            await admin.execute(f"DROP SCHEMA {table(gone, 'x').partition('.')[0]} CASCADE")
        with pytest.raises(StoreUnavailable, match="does not exist"):
            await store.info("a")
    with pytest.raises(StreamNotFound):
        async with open_store(url) as store:
            await store.info("a")
