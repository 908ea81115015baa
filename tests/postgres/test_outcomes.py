"""What callers learn when the server refuses, waits, dies and comes back in mid-call."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from streamstores import (
    Conflict,
    CorruptData,
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
    StreamWriter,
    open_store,
)
from streamstores.backends._postgres.driver_errors import translate_errors
from tests.postgres.conftest import (
    connection,
    end_sessions,
    locked,
    make_impatient,
    new_id,
    other_server,
    table,
    until,
    waits_for_a_lock,
)
from tests.postgres.proxy import proxy_to
from tests.services.postgres import shared, with_options

# ---- refused by the server: nothing was applied


async def test_an_append_that_the_server_refused_was_not_applied(url, admin):
    stream_id, name = new_id(), new_id()
    async with open_store(url) as store:
        before = await store.create(stream_id)
        for option in ("lock_timeout=50", "statement_timeout=50"):
            impatient = with_options(url, options=f"-c {option}", application_name=name)
            async with open_store(impatient) as other, locked(url, stream_id):
                with pytest.raises(StoreUnavailable, match="timeout"):
                    await other.append(stream_id, b"1")
        assert await store.info(stream_id) == before


async def test_a_read_only_server_can_be_read_from(url):
    stream_id = new_id()
    read_only = with_options(url, options="-c default_transaction_read_only=on")
    async with open_store(url) as store, open_store(read_only) as other:
        await store.create(stream_id, b"1")
        assert (await other.read(stream_id)).records[0].data == b"1"
        for call in (other.append(stream_id, b"2"), other.create(new_id()), other.sweep()):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call


async def test_no_connection_left_on_the_server_is_unavailable(url):
    user = f"crowd_{new_id()}"
    async with connection(url) as admin:
        await admin.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD 'x'")
        await admin.execute(f"ALTER ROLE {user} NOSUPERUSER CONNECTION LIMIT 0")
        try:
            with pytest.raises(StoreUnavailable, match="too many connections"):
                await open_store(other_server(url, user=f"{user}:x")).info("a")
        finally:
            await admin.execute(f"DROP ROLE {user}")


# ---- cancelled, or cut in mid-call


async def test_a_cancelled_append_leaves_its_connection_usable(url, admin):
    stream_id, name = new_id(), new_id()
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


@pytest.mark.parametrize("cache_size", [0, 100])
@pytest.mark.parametrize("kind", ["append", "read"])
async def test_a_call_cancelled_when_the_server_has_answered_leaves_no_session_open(
    url, admin, cache_size, kind
):
    """Between the answer to a prepare and the execution, where the server waits for more."""
    stream_id, name = new_id(), new_id()
    options = {"max_size": 1, "application_name": name, "statement_cache_size": cache_size}
    for answers in range(1, 4):
        async with open_store(with_options(url, **options)) as store:
            await store.create(stream_id + str(answers))
            call = {"append": store.append, "read": store.read}[kind]
            arguments = [b"x"] if kind == "append" else []
            task = asyncio.ensure_future(call(stream_id + str(answers), *arguments))
            await cancel_at_answer(task, answers)
            assert not await admin.fetch(OPEN_SESSIONS, name)


OPEN_SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE application_name = $1 AND state = 'active' AND wait_event = 'ClientRead'
"""


async def cancel_at_answer(task: asyncio.Task[Any], answers: int) -> None:
    """Cancel in the moment in which the task has got that many answers, and has not gone on."""
    seen: list[Any] = []
    while not task.done():
        waiter = task._fut_waiter  # type: ignore[attr-defined]
        if waiter is not None and waiter.done() and waiter not in seen:
            seen.append(waiter)
        if len(seen) == answers:
            task.cancel()
            break
        await asyncio.sleep(0)
    await asyncio.wait([task])


async def test_a_timeout_in_mid_append_leaves_the_outcome_open(url):
    stream_id = new_id()
    async with open_store(url) as store:
        before = await store.create(stream_id)
        make_impatient(store, command_timeout=0.2)
        async with locked(url, stream_id):
            with pytest.raises(OutcomeUnknown):
                await store.append(stream_id, b"1")
        assert await store.info(stream_id) == before


async def test_a_session_cut_in_mid_append_leaves_the_outcome_open(url, admin):
    stream_id, name = new_id(), new_id()
    async with open_store(with_options(url, application_name=name)) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            append = asyncio.ensure_future(store.append(stream_id, b"1"))
            await until(lambda: waits_for_a_lock(admin, name))
            await end_sessions(admin, name)
            with pytest.raises(OutcomeUnknown):
                await append
        assert (await store.append(stream_id, b"2")).tail == 1


@pytest.mark.parametrize("lost", ["cut", "silent"])
async def test_an_append_of_unknown_outcome_does_not_land_later(url, admin, lost):
    """The server still waits for the row's lock when the client has lost its session."""
    stream_id, name = new_id(), new_id()
    async with open_store(url) as store, proxy_to(url) as proxy:
        before = await store.create(stream_id)
        async with open_store(with_options(proxy.url, application_name=name)) as other:
            await other.info(stream_id)
            if lost == "silent":
                make_impatient(other, command_timeout=1.0)
            async with locked(url, stream_id):
                append = asyncio.ensure_future(other.append(stream_id, b"1"))
                await until(lambda: waits_for_a_lock(admin, name))
                if lost == "silent":
                    proxy.silence()
                else:
                    proxy.cut_clients()
                with pytest.raises(OutcomeUnknown):
                    await append
                assert not await waits_for_a_lock(admin, name)
            assert await store.info(stream_id) == before
            make_impatient(other, command_timeout=30.0)
            assert (await other.append(stream_id, b"1", version=before.version)).tail == 1


async def test_a_killed_server_is_unavailable_and_used_again_when_it_is_back(server):
    """It is killed in mid-append, is down, and comes back: the client need not restart."""
    stream_id, name = new_id(), new_id()
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
                pass  # the connection that held the row is gone too
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
    stream_id = new_id()
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
            stream_id = new_id()
            await store.create(stream_id, b"1")
            update = f"UPDATE {table(url, 'streams')} SET {damage} WHERE id = $1"
            await admin.execute(update, stream_id)
            with pytest.raises(CorruptData):
                await store.read(stream_id, 1)


async def test_tables_that_vanished_are_unavailable(url):
    gone = with_options(shared(), schema=f"gone_{new_id()}")
    async with open_store(gone) as store:
        async with connection(gone) as admin:
            await admin.execute(f"DROP SCHEMA {table(gone, 'x').partition('.')[0]} CASCADE")
        with pytest.raises(StoreUnavailable, match="does not exist"):
            await store.info("a")
    with pytest.raises(StreamNotFound):
        async with open_store(url) as store:
            await store.info("a")


@pytest.mark.parametrize(
    "silent",
    [
        asyncio.TimeoutError(),
        ConnectionResetError(),
        OSError(),
        asyncpg.InterfaceError(""),
        asyncpg.InternalClientError(""),
        asyncpg.PostgresError(""),
        asyncpg.ClientConfigurationError(""),
        ValueError(),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_error_without_a_message_gets_one(silent):
    with pytest.raises(Exception, match=r"PostgreSQL: \w+") as caught, translate_errors():
        raise silent
    assert caught.value.__cause__ is silent
