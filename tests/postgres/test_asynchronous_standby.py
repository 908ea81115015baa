"""What survives the move from a primary to a standby that does not confirm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streamstores import (
    Conflict,
    OffsetOutOfRange,
    StoreUnavailable,
    StreamNotFound,
    StreamWriter,
    follow,
    open_store,
)
from tests.postgres.conftest import new_id, until
from tests.services import Unavailable, give_up
from tests.services.postgres import with_options
from tests.services.postgres_standby import Pair, execute, own_pair

pytestmark = pytest.mark.long
DURABILITIES = ["power", "process"]


@pytest.fixture
def pair() -> Iterator[Pair]:
    try:
        with own_pair(is_synchronous=False) as pair:
            yield pair
    except Unavailable as exc:
        give_up("postgres", exc)


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_primary_that_is_stopped_in_order_hands_everything_over(pair, durability):
    """It ends when its standby has all, also what no disk had yet."""
    stream_id = new_id()
    async with open_store(with_options(pair.url, durability=durability, timeout=5)) as store:
        await store.create(stream_id)
        for number in range(100):
            last = await store.append(stream_id, b"<%d>" % number)
        await asyncio.to_thread(pair.primary.stop)
        await asyncio.to_thread(pair.promote)
        assert await store.info(stream_id) == last


async def next_record(follower, store):
    """Also if the follower has asked the store while there was no primary."""
    while True:
        try:
            return await anext(follower)
        except StoreUnavailable:
            follower = follow(store, follower.stream_id, follower.offset)


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_standby_that_lags_has_a_whole_beginning_and_nobody_mixes_the_rest(
    pair, durability
):
    stream_id = new_id()
    url = with_options(pair.url, durability=durability, timeout=5, command_timeout=5)
    written = b"".join(b"<%d>" % number for number in range(100))
    async with open_store(url) as store, open_store(url) as reader:
        await store.create(stream_id)
        writer = StreamWriter(store, stream_id, retry_for=120)
        follower = follow(reader, stream_id)
        for number in range(100):
            if number == 50:
                await writer.flush()
                arrived = writer.info.tail
                await asyncio.to_thread(pair.catch_up)
                pair.link.mute()
            await writer.write(b"<%d>" % number)
        await writer.flush()
        acknowledged = writer.info
        async for record in follower:
            if record.end == acknowledged.tail:
                break
        await asyncio.to_thread(pair.primary.kill)
        pair.link.cut()
        await asyncio.to_thread(pair.promote)

        now = await store.info(stream_id)
        assert arrived <= now.tail < acknowledged.tail, "the standby did not lag"
        # The writer, the follower and a reader each learn that what they know is gone.
        await writer.write(b"more")
        with pytest.raises(Conflict):
            await writer.flush()
        with pytest.raises((StreamNotFound, OffsetOutOfRange)):
            await next_record(follower, reader)
        with pytest.raises(OffsetOutOfRange):
            await store.read(stream_id, acknowledged.tail)
        page = await store.read(stream_id)
    assert b"".join(record.data for record in page.records) == written[: now.tail]
    assert page.info == now


async def test_a_server_that_crashes_keeps_a_whole_beginning_of_what_no_disk_had(pair):
    """With `durability=process`; a crash of the server is the whole failover."""

    async def is_on_disk() -> bool:
        query = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
        return bool(await asyncio.to_thread(execute, pair.primary, query))

    stream_id = new_id()
    url = with_options(pair.primary.url, durability="process", timeout=5)
    for _ in range(5):
        async with open_store(url) as store:
            before = await store.create(stream_id, b"begin ")
            await until(is_on_disk)
            for number in range(50):
                last = await store.append(stream_id, b"<%d>" % number)
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.to_thread(pair.primary.start)
        async with open_store(url) as store:
            page = await store.read(stream_id)
            assert before.version <= page.info.version <= last.version
            written = b"begin " + b"".join(b"<%d>" % number for number in range(50))
            text = b"".join(record.data for record in page.records)
            assert text == written[: page.info.tail]
            await store.delete(stream_id)
