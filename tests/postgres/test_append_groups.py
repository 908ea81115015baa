"""Appends that share a transaction: one commit, and an outcome for each of them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from streamstores import (
    Conflict,
    OutcomeUnknown,
    PostgresStreamStore,
    StoreUnavailable,
    StreamClosed,
    StreamNotFound,
    open_store,
)
from tests.postgres.conftest import (
    connection,
    end_sessions,
    locked,
    make_impatient,
    new_id,
    schema_of,
    table,
    until,
    waits_for_a_lock,
)
from tests.postgres.proxy import proxy_to
from tests.services.postgres import with_options

CROWD = 120


async def test_appends_of_many_streams_share_their_commits(url, admin):
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        before = await admin.fetchval("SELECT txid_current()")
        infos = await asyncio.gather(*(store.append(each, b"1", b"23") for each in ids))
        after = await admin.fetchval("SELECT txid_current()")
        assert {(info.id, info.tail) for info in infos} == {(each, 3) for each in ids}
        for each in ids:
            records = (await store.read(each)).records
            assert [record.data for record in records] == [b"1", b"23"]
    assert after - before < CROWD / 4


async def test_appends_one_after_another_each_go_alone(url, monkeypatch):
    async with open_store(url) as store:
        await store.create(stream_id := new_id())
        statements = _recorded(store, monkeypatch)
        for _ in range(5):
            await store.append(stream_id, b"1")
    assert statements == [store._sql.append] * 5


async def test_each_append_of_a_group_has_its_own_outcome(url):
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        stopped, conflicting, repeated, gone = ids[20], ids[40], ids[60], ids[80]
        await store.mark_done(stopped, "stopped")
        done = await store.mark_done(repeated)
        await store.delete(gone)
        calls = [store.append(each, b"1") for each in ids]
        calls[40].close()
        calls[40] = store.append(conflicting, b"1", at=7)
        calls[60].close()
        calls[60] = store.append(repeated, state="done")
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert type(results[20]) is StreamClosed
        assert type(results[40]) is Conflict
        assert results[60] == done
        assert type(results[80]) is StreamNotFound
        others = {each for each in ids if each not in (stopped, conflicting, repeated, gone)}
        applied = [each for each in results if not isinstance(each, Exception)]
        assert {info.id for info in applied if info.tail == 1} == others


async def test_of_many_appends_with_one_version_in_a_group_one_wins(url):
    async with open_store(url) as store:
        info = await store.create(stream_id := new_id())
        calls = (store.append(stream_id, b"1", version=info.version) for _ in range(CROWD))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(type(each) is Conflict for each in results) == CROWD - 1
        assert (await store.info(stream_id)).tail == 1


async def test_a_stream_that_another_session_holds_holds_up_no_other(url):
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        async with locked(url, ids[50]):
            appends = [asyncio.ensure_future(store.append(each, b"1")) for each in ids]
            waiting = appends.pop(50)
            await asyncio.gather(*appends)
            assert not waiting.done()
        assert (await waiting).tail == 1


async def test_an_append_that_the_server_refuses_leaves_the_others_alone(url, admin):
    """A trigger of the user's refuses one stream, which ends the transaction of its group."""
    function = f'"{schema_of(url)}".refuse'
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        await admin.execute(
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'refused by a trigger'; END $$"
        )
        streams = table(url, "streams")
        await admin.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE ON {streams} FOR EACH ROW "
            f"WHEN (OLD.id = '{ids[50]}') EXECUTE FUNCTION {function}()"
        )
        try:
            calls = (store.append(each, b"1") for each in ids)
            results = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await admin.execute(f"DROP TRIGGER refuse ON {streams}")
        assert type(results[50]) is StoreUnavailable
        assert "refused by a trigger" in str(results[50])
        del results[50]
        assert {info.tail for info in results} == {1}


@pytest.mark.parametrize("lost", ["cut", pytest.param("silent", marks=pytest.mark.long)])
async def test_the_outcome_of_a_group_whose_connection_is_lost_is_unknown(url, lost):
    async with open_store(url) as other, proxy_to(url) as proxy:
        async with open_store(proxy.url) as store:
            ids = await _created(store, CROWD)
            await asyncio.gather(*(store.append(each, b"0") for each in ids))
            if lost == "silent":
                make_impatient(store, command_timeout=1.0, timeout=2.0)
            calls = [asyncio.ensure_future(store.append(each, b"1")) for each in ids]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            proxy.silence() if lost == "silent" else proxy.abort()
            results = await asyncio.gather(*calls, return_exceptions=True)
            tails = [(await other.info(each)).tail for each in ids]
    assert {type(each) for each in results if isinstance(each, Exception)} <= {
        OutcomeUnknown,
        StoreUnavailable,
    }
    assert OutcomeUnknown in map(type, results)
    for result, tail in zip(results, tails, strict=True):
        if isinstance(result, StoreUnavailable):
            assert tail == 1
        elif not isinstance(result, OutcomeUnknown):
            assert tail == 2


async def test_sessions_that_are_ended_at_random_lose_and_double_nothing(url, admin):
    """Writers of many streams, beside others that take versions from them."""
    name = new_id()
    rng = random.Random(5)
    async with open_store(with_options(url, application_name=name)) as store:
        ids = await _created(store, 40)
        confirmed = dict.fromkeys(ids, 0)
        doubtful = dict.fromkeys(ids, 0)

        async def write(stream_id: str) -> None:
            for _ in range(25):
                info = await _patient_info(store, stream_id)
                try:
                    await store.append(stream_id, b"x", version=info.version)
                except OutcomeUnknown:
                    doubtful[stream_id] += 1
                except (StoreUnavailable, Conflict):
                    continue
                else:
                    confirmed[stream_id] += 1

        writing = asyncio.gather(*map(write, ids), *map(write, ids[::4]))
        while not writing.done():
            await asyncio.wait([writing], timeout=rng.uniform(0.02, 0.2))
            if not writing.done():
                await _end_all(admin, name)
        await writing
        for each in ids:
            tail = (await _patient_info(store, each)).tail
            assert confirmed[each] <= tail <= confirmed[each] + doubtful[each]


async def test_a_cancelled_append_of_a_group_has_a_final_outcome(url):
    rng = random.Random(7)
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        for _ in range(12):
            calls = [asyncio.ensure_future(store.append(each, b"1")) for each in ids]
            for _ in range(rng.randrange(1, 12)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            cancelled = rng.sample(range(CROWD), CROWD // 2)
            for number in cancelled:
                calls[number].cancel()
            seen: dict[int, int] = {}
            for number in cancelled:
                if await _was_cancelled(calls[number]):
                    seen[number] = (await store.info(ids[number])).tail
            await asyncio.gather(*calls, return_exceptions=True)
            for number, tail in seen.items():
                assert (await store.info(ids[number])).tail == tail


async def test_a_cancelled_append_that_still_gathers_is_never_sent(url):
    async with open_store(url) as store:
        ids = await _created(store, CROWD)
        calls = [asyncio.ensure_future(store.append(each, b"1")) for each in ids]
        await asyncio.sleep(0)  # all have been called, and none has been answered
        for call in calls[10:]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        tails = [(await store.info(each)).tail for each in ids]
    assert tails == [1] * 10 + [0] * (CROWD - 10)


async def test_closing_lets_appends_end_that_still_gather(url):
    store = open_store(url)
    ids = await _created(store, CROWD)
    appends = [asyncio.ensure_future(store.append(each, b"x")) for each in ids]
    await asyncio.sleep(0)  # all have begun
    await store.aclose()
    assert {info.tail for info in await asyncio.gather(*appends)} == {1}


async def test_big_appends_go_alone(url, monkeypatch):
    async with open_store(url) as store:
        ids = await _created(store, 20)
        statements = _recorded(store, monkeypatch)
        infos = await asyncio.gather(*(store.append(each, bytes(70_000)) for each in ids))
        assert {info.tail for info in infos} == {70_000}
    assert statements == [store._sql.append] * 20


async def test_appends_gather_no_longer_than_a_moment_behind_those_that_wait(url):
    """Every append that may go alone waits for a row that is held."""
    name = new_id()
    async with (
        connection(url) as admin,
        open_store(with_options(url, application_name=name)) as store,
    ):
        held, *ids = await _created(store, 20)
        async with locked(url, held):
            waiting = [asyncio.ensure_future(store.append(held, b"1")) for _ in range(6)]
            await until(lambda: waits_for_a_lock(admin, name))
            infos = await asyncio.gather(*(store.append(each, b"1") for each in ids))
            assert {info.tail for info in infos} == {1}
        assert sorted(info.tail for info in await asyncio.gather(*waiting)) == [*range(1, 7)]


async def _created(store: PostgresStreamStore, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    await asyncio.gather(*map(store.create, ids))
    return ids


def _recorded(store: PostgresStreamStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the store executes from now on."""
    statements: list[str] = []
    execute = store._database.execute

    async def record(sql: str, *args: Any, **options: Any) -> Any:
        statements.append(sql)
        return await execute(sql, *args, **options)

    monkeypatch.setattr(store._database, "execute", record)
    return statements


async def _was_cancelled(call: asyncio.Future[Any]) -> bool:
    try:
        await call
    except asyncio.CancelledError:
        return True
    return False


async def _patient_info(store: PostgresStreamStore, stream_id: str) -> Any:
    while True:
        try:
            return await store.info(stream_id)
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def _end_all(admin: Any, name: str) -> None:
    with suppress(AssertionError):  # there may be none at this moment
        await end_sessions(admin, name)
