"""Behind PgBouncer in transaction mode, where each statement may get another session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from streamstores import PostgresStreamStore, open_store
from streamstores.backends._postgres import notices
from streamstores.conformance import Check, all_checks, run_check, target_of
from tests.postgres.conftest import new_id, until
from tests.postgres.test_notices import followed, hears
from tests.services import Unavailable, give_up
from tests.services.postgres import pgbouncer, shared, with_options

# Their checks fail if statements are torn apart or given to another session.
CLAUSES = (2, 9)


@pytest.fixture
async def direct(url: str) -> AsyncIterator[PostgresStreamStore]:
    """A store that does not go through the pooler."""
    async with PostgresStreamStore.from_url(url) as store:
        yield store


@pytest.fixture(scope="module")
def pooled(url: str) -> Iterator[str]:
    try:
        with pgbouncer(shared()) as bouncer:
            yield url.replace(shared(), bouncer)
    except Unavailable as exc:
        give_up("pgbouncer", exc)


@pytest.mark.parametrize(
    "check",
    [each for each in all_checks() if each.clause in CLAUSES and not each.needs],
    ids=lambda check: check.id,
)
def test_the_contract_holds_behind_a_pooler(pooled: str, check: Check) -> None:
    run_check(check, target_of(with_options(pooled, notify="false", statement_cache_size=0)))


async def test_behind_a_pooler_no_call_gets_the_statement_of_another(pooled):
    """Calls of every kind run at once. Each statement is prepared without a name, in the server
    session that comes next."""
    through = with_options(pooled, notify="false", statement_cache_size=0)
    ids = [new_id() for _ in range(10)]
    async with open_store(through) as store:

        async def use(stream_id: str) -> None:
            await store.create(stream_id, b"0")
            for number in range(1, 10):
                assert (await store.append(stream_id, b"x", at=number)).tail == number + 1
                assert (await store.info(stream_id)).id == stream_id
                assert len((await store.read(stream_id, number)).records) == 1
                assert (await store.expire(stream_id, ttl=600)).tail == number + 1
            await store.delete(stream_id)

        await asyncio.gather(*(use(each) for each in ids))


async def test_behind_a_pooler_polling_and_no_statement_cache_work(pooled, direct):
    through = with_options(pooled, notify="false", statement_cache_size=0)
    ids = [new_id() for _ in range(20)]
    async with open_store(through) as store, open_store(through) as other:
        await asyncio.gather(*(store.create(each, b"0", ttl=60) for each in ids))
        tasks = await followed(other, ids, 2)
        for number in range(1, 6):
            data = b"%d" % number
            await asyncio.gather(*(store.append(each, data, at=number) for each in ids))
        await asyncio.gather(*(direct.mark_done(each) for each in ids))
        assert await asyncio.wait_for(asyncio.gather(*tasks), 60) == [b"012345"] * 40
        assert len([each async for each in store.list()]) >= 20
        for each in ids:
            await store.delete(each)


async def test_behind_a_pooler_a_store_warns_that_notices_do_not_arrive_and_polls(
    pooled, direct, caplog, monkeypatch
):
    monkeypatch.setattr(notices, "ECHO_SECONDS", 0.2)
    stream_id = new_id()
    await direct.create(stream_id)
    through = with_options(pooled, statement_cache_size=0, poll_interval=0.3)
    with caplog.at_level(logging.WARNING, "streamstores.postgres"):
        async with open_store(through) as store:
            (task,) = await followed(store, [stream_id], 1)

            async def is_told() -> bool:
                return "use notify=false" in caplog.text

            await until(is_told)
            await direct.append(stream_id, b"1", state="done")
            assert await asyncio.wait_for(task, 15) == b"1"


async def test_behind_a_pooler_a_store_that_cannot_listen_still_sends_notices(
    pooled, url, direct, monkeypatch
):
    monkeypatch.setattr(notices, "ECHO_SECONDS", 0.2)
    stream_id = new_id()
    through = with_options(pooled, statement_cache_size=0)
    async with (
        open_store(through) as store,
        open_store(with_options(url, poll_interval=600)) as listener,
    ):
        await direct.create(stream_id)
        follower = await hears(listener, direct, stream_id)
        with store.changes.subscribe(stream_id):  # it tries to listen all the time
            for number in range(10):
                await store.append(stream_id, b"%d" % number)
                record = await asyncio.wait_for(follower.__anext__(), 30)
                assert record.data == b"%d" % number
