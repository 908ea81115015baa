"""What survives the move from a primary to its synchronous standby."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streamstores import OutcomeUnknown, StoreUnavailable, StreamWriter, open_store
from tests.postgres.conftest import new_id, until
from tests.services import Unavailable, give_up
from tests.services.postgres import OwnServer, with_options
from tests.services.postgres_standby import Pair, execute, own_pair

RECORDS = 300
PATIENCE = 120.0


@pytest.fixture
def pair() -> Iterator[Pair]:
    try:
        with own_pair() as pair:
            yield pair
    except Unavailable as exc:
        give_up("postgres", exc)


@pytest.mark.parametrize(
    "end",
    [OwnServer.stop, pytest.param(OwnServer.kill, marks=pytest.mark.long)],
    ids=["planned", "unplanned"],
)
async def test_a_failover_to_a_synchronous_standby_loses_and_doubles_nothing(pair, end):
    stream_id = new_id()
    url = with_options(pair.url, timeout=5, command_timeout=5)
    acknowledged = 0

    async def fail_over() -> None:
        nonlocal acknowledged
        await asyncio.to_thread(end, pair.primary)
        acknowledged = writer.info.tail
        await asyncio.to_thread(pair.promote)

    async with open_store(url) as store:
        await store.create(stream_id)
        writer = StreamWriter(store, stream_id, retry_for=PATIENCE)
        for number in range(RECORDS):
            await writer.write(b"<%d>" % number)
            if number == RECORDS // 2:
                await writer.flush()
                failing_over = asyncio.ensure_future(fail_over())
                await asyncio.sleep(0)
        await failing_over
        await writer.aclose(state="done")
    async with open_store(with_options(pair.standby.url, timeout=5)) as store:
        page = await store.read(stream_id)
    assert acknowledged, "nothing was acknowledged before the failover"
    expected = b"".join(b"<%d>" % number for number in range(RECORDS))
    assert b"".join(record.data for record in page.records) == expected
    assert page.info.state == "done"


async def test_a_plain_append_that_was_acknowledged_is_on_the_promoted_standby(pair):
    """Each append by itself, so that nothing is repeated."""
    stream_id = new_id()
    async with open_store(with_options(pair.primary.url, timeout=5)) as store:
        await store.create(stream_id)
        for number in range(100):
            last = await store.append(stream_id, b"<%d>" % number)
    await asyncio.to_thread(pair.primary.kill)
    await asyncio.to_thread(pair.promote)
    async with open_store(with_options(pair.standby.url, timeout=5)) as store:
        assert await store.info(stream_id) == last


async def test_a_repeated_final_state_is_acknowledged_only_when_it_is_on_the_standby(pair):
    """The first one landed, but was never confirmed: its caller was told so."""
    stream_id = new_id()
    impatient = with_options(pair.primary.url, timeout=5, command_timeout=1)
    async with open_store(impatient) as store:
        await store.create(stream_id, b"1")
        # Not frozen: the standby's receiver is a process of its own, which goes on.
        await asyncio.to_thread(pair.standby.stop)
        for _ in range(2):
            with pytest.raises((OutcomeUnknown, StoreUnavailable)):
                await store.mark_done(stream_id)
        await asyncio.to_thread(pair.standby.start)
        await asyncio.to_thread(pair.wait_for_standby)
        info = await store.mark_done(stream_id)
        assert info.state == "done"

    async def has_it() -> bool:
        query = f"SELECT state = 'done' FROM streamstores_streams WHERE id = '{stream_id}'"
        return bool(await asyncio.to_thread(execute, pair.standby, query))

    await until(has_it)
