"""Statements that wait for a connection of the pool, and how a connection is handed on."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from streamstores import OutcomeUnknown, PostgresStreamStore, StoreUnavailable, open_store
from tests.postgres.conftest import (
    connection,
    end_sessions,
    locked,
    make_impatient,
    new_id,
    until,
    waits_for_a_lock,
)
from tests.services.postgres import with_options


async def test_a_call_is_unavailable_if_no_connection_gets_free_within_the_timeout(url):
    busy = with_options(url, max_size=1, application_name=(name := new_id()))
    stream_id = new_id()
    async with connection(url) as admin, open_store(busy) as store:
        await store.create(stream_id)
        make_impatient(store, timeout=0.2)
        async with locked(url, stream_id):
            waiting = asyncio.ensure_future(store.append(stream_id, b"1"))
            await until(lambda: waits_for_a_lock(admin, name))
            with pytest.raises(StoreUnavailable):
                await store.info(stream_id)
        assert (await waiting).tail == 1


async def test_a_waiting_statement_takes_over_a_connection_without_the_pool(url, monkeypatch):
    async with open_store(with_options(url, max_size=2)) as store:
        acquire, taken = store._database._acquire, []

        async def counting():
            taken.append(await acquire())
            return taken[-1]

        monkeypatch.setattr(store._database, "_acquire", counting)
        infos = [store.create(f"{new_id()}", b"%d" % number) for number in range(50)]
        assert len({info.id for info in await asyncio.gather(*infos)}) == 50
        assert len(taken) == 2


async def test_waiting_statements_get_their_turn_in_the_order_they_came(url, admin):
    name, stream_id = new_id(), new_id()
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


async def test_a_cancelled_caller_takes_no_connection_with_it(url):
    """Cancelled at any moment: while waiting, as its turn comes, or in the statement."""
    rng = random.Random(3)
    async with open_store(with_options(url, max_size=2)) as store:
        stream_id = new_id()
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


async def test_callers_waiting_for_a_session_that_is_cut_get_another(url, admin):
    name, stream_id = new_id(), new_id()
    async with open_store(with_options(url, max_size=2, application_name=name)) as store:
        await store.create(stream_id)
        async with locked(url, stream_id):
            cut = [asyncio.ensure_future(store.append(stream_id, b"1")) for _ in range(2)]
            waiting = [asyncio.ensure_future(store.info(stream_id)) for _ in range(10)]
            await until(lambda: waits_for_a_lock(admin, name))
            await end_sessions(admin, name)
            assert {info.id for info in await asyncio.gather(*waiting)} == {stream_id}
        results = await asyncio.gather(*cut, return_exceptions=True)
        assert OutcomeUnknown in {type(result) for result in results}
        await _has_connections(store, url, 2)


async def test_closing_lets_calls_that_wait_for_a_connection_end_first(url):
    stream_id = new_id()
    store = open_store(with_options(url, max_size=1))
    await store.create(stream_id)
    appends = [asyncio.ensure_future(store.append(stream_id, b"x")) for _ in range(20)]
    await asyncio.sleep(0)  # all have begun
    await store.aclose()
    assert [info.tail for info in await asyncio.gather(*appends)] == [*range(1, 21)]


async def _has_connections(store: PostgresStreamStore, url: str, count: int) -> None:
    """Fail unless exactly `count` statements can be under way at once."""
    ids = [new_id() for _ in range(count)]
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
