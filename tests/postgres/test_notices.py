"""How followers hear of other processes: by notices on one connection, or by polling."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from streamstores import Follower, Page, PostgresStreamStore, StreamNotFound, follow, open_store
from streamstores.backends._postgres import notices
from tests.postgres.conftest import listening, new_id, until
from tests.services.postgres import with_options

STREAMS = 200


class Counting(PostgresStreamStore):
    """Counts the reads of its followers."""

    reads = 0

    async def read(self, *args: Any, **options: Any) -> Page:
        self.reads += 1
        return await super().read(*args, **options)


@pytest.fixture(params=["notices", "polling"])
def way(request: pytest.FixtureRequest, url: str) -> str:
    """The URL of a store that learns of changes by notices or polling, under its own name."""
    name = f"{request.param}-{secrets.token_hex(4)}"
    # The safety poll is so slow that only notices can bring anything in time.
    polling, notified = {"notify": "false"}, {"poll_interval": 600}
    options = polling if request.param == "polling" else notified
    return with_options(url, application_name=name, max_size=4, **options)


@pytest.fixture
async def follower_store(way: str) -> AsyncIterator[Counting]:
    async with Counting.from_url(way) as store:
        yield store


@pytest.fixture
async def producer_store(url: str) -> AsyncIterator[PostgresStreamStore]:
    async with PostgresStreamStore.from_url(url) as store:
        yield store


async def text_of(store: PostgresStreamStore, stream_id: str) -> bytes:
    return b"".join([record.data async for record in follow(store, stream_id)])


async def sessions(admin: asyncpg.Connection, url: str) -> int:
    name = url.partition("application_name=")[2].partition("&")[0]
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    number: int = await admin.fetchval(count, name)
    return number


async def followed(store: PostgresStreamStore, ids: list[str], each: int) -> list[Any]:
    """Tasks that follow these streams to their end, once all of the streams are watched."""
    tasks = [
        asyncio.ensure_future(text_of(store, stream_id))
        for stream_id in ids
        for _ in range(each)
    ]

    async def all_watch() -> bool:
        return set(store.changes.subscribed_ids) >= set(ids)

    await until(all_watch)
    return tasks


async def hears(
    store: PostgresStreamStore, producer: PostgresStreamStore, stream_id: str
) -> Follower:
    """A follower that has heard of the record `live`: the cost of a new watch is past."""
    follower = follow(store, stream_id)
    following = asyncio.ensure_future(follower.__anext__())

    async def is_watched() -> bool:
        return stream_id in store.changes.subscribed_ids

    await until(is_watched)
    await producer.append(stream_id, b"live")
    assert (await asyncio.wait_for(following, 15)).data == b"live"
    return follower


async def test_two_hundred_followers_of_one_stream_share_connections_and_reads(
    way, follower_store, producer_store, admin
):
    stream_id = new_id()
    await producer_store.create(stream_id)
    tasks = await followed(follower_store, [stream_id], STREAMS)

    async def all_have_read() -> bool:
        return follower_store.reads >= STREAMS

    await until(all_have_read)
    await hears(follower_store, producer_store, stream_id)
    follower_store.reads = 0
    for number in range(20):
        await producer_store.append(stream_id, b"<%d>" % number)
    await producer_store.mark_done(stream_id)
    expected = b"live" + b"".join(b"<%d>" % number for number in range(20))
    assert await asyncio.wait_for(asyncio.gather(*tasks), 60) == [expected] * STREAMS
    assert follower_store.reads <= 22, "one read for each change, however many followers"
    assert await sessions(admin, way) <= 4 + 1, "the pool, and the listening connection"


async def test_followers_of_two_hundred_streams_share_the_connections(
    way, follower_store, producer_store, admin
):
    ids = [new_id() for _ in range(STREAMS)]
    await asyncio.gather(*(producer_store.create(stream_id, b"1") for stream_id in ids))
    tasks = await followed(follower_store, ids, 1)
    await asyncio.gather(*(producer_store.append(each, b"2", state="done") for each in ids))
    assert await asyncio.wait_for(asyncio.gather(*tasks), 60) == [b"12"] * STREAMS
    assert await sessions(admin, way) <= 4 + 1


async def test_appends_of_this_process_cost_its_own_followers_no_read(
    way, follower_store, producer_store, monkeypatch
):
    looks = reads_before_each_look(follower_store, monkeypatch)
    stream_id = new_id()
    await producer_store.create(stream_id)
    follower = await hears(follower_store, producer_store, stream_id)
    if "polling" not in way:

        async def has_looked() -> bool:
            look = follower_store.changes._safety_look
            return bool(looks) and look._looking is None

        await until(has_looked)  # once, when the store has begun to listen
    follower_store.reads = 0
    for _ in range(50):
        await follower_store.append(stream_id, b"x")
    await follower_store.mark_done(stream_id)
    assert len([record async for record in follower]) == 50
    # A poll can see a commit just before its statement returns in this process.
    assert follower_store.reads <= (10 if "polling" in way else 0)


def reads_before_each_look(store: Counting, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of reads at each time that all subscribers were told to read."""
    looks: list[int] = []
    noticed_all = store.changes.noticed_all

    def look() -> None:
        looks.append(store.reads)
        noticed_all()

    monkeypatch.setattr(store.changes, "noticed_all", look)
    return looks


async def test_a_stream_that_is_deleted_elsewhere_ends_its_followers(
    follower_store, producer_store
):
    stream_id = new_id()
    await producer_store.create(stream_id)
    await producer_store.append(stream_id, b"1")
    follower = follow(follower_store, stream_id)
    assert (await follower.__anext__()).data == b"1"
    following = asyncio.ensure_future(follower.__anext__())
    await producer_store.delete(stream_id)
    await producer_store.create(stream_id, b"a namesake")
    with pytest.raises(StreamNotFound):
        await asyncio.wait_for(following, 15)


async def test_followers_miss_nothing_when_the_listening_connection_is_cut(
    url, admin, producer_store
):
    name = f"cut-{secrets.token_hex(4)}"
    stream_id = new_id()
    await producer_store.create(stream_id)
    slow = with_options(url, application_name=name, poll_interval=600)
    async with open_store(slow) as store:
        (task,) = await followed(store, [stream_id], 1)
        for number in range(3):
            pid = await listening(admin, name)
            assert await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
            await producer_store.append(stream_id, b"<%d>" % number)

            await listening(admin, name, instead_of=pid)
        await producer_store.append(stream_id, b"end", state="done")
        assert await asyncio.wait_for(task, 15) == b"<0><1><2>end"


async def test_a_store_looks_for_changes_missed_while_it_did_not_listen(
    url, admin, producer_store, monkeypatch
):
    monkeypatch.setattr(notices, "BACKOFF_SECONDS", (1.0, 1.0))
    name = f"deaf-{secrets.token_hex(4)}"
    stream_id = new_id()
    await producer_store.create(stream_id)
    slow = with_options(url, application_name=name, poll_interval=600)
    async with open_store(slow) as store:
        (task,) = await followed(store, [stream_id], 1)
        pid = await listening(admin, name)
        gone = "SELECT pg_terminate_backend($1, 5000)"
        assert await admin.fetchval(gone, pid)
        await producer_store.append(stream_id, b"unheard", state="done")
        assert await asyncio.wait_for(task, 15) == b"unheard"


async def test_a_cancelled_append_that_happened_is_seen_elsewhere(url, producer_store):
    """Followers are told to read, at whatever moment the call is cancelled."""
    stream_id = new_id()
    await producer_store.create(stream_id)
    async with open_store(with_options(url, poll_interval=600)) as store:
        follower = await hears(store, producer_store, stream_id)
        for number in range(40):
            append = asyncio.ensure_future(producer_store.append(stream_id, b"x"))
            await asyncio.sleep(number * 0.0002)
            append.cancel()
            await asyncio.wait([append])
            tail = (await producer_store.info(stream_id)).tail
            while follower.offset < tail:
                await asyncio.wait_for(follower.__anext__(), 15)


async def test_a_store_that_closes_after_an_append_is_still_heard(url):
    stream_id = new_id()
    async with open_store(with_options(url, poll_interval=600)) as store:
        await store.create(stream_id)
        (task,) = await followed(store, [stream_id], 1)
        async with open_store(url) as producer:
            await producer.append(stream_id, b"1", state="done")
        assert await asyncio.wait_for(task, 15) == b"1"
