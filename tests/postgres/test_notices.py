"""How followers hear of other processes: over one connection, or by one query for all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from streamstores import Follower, Page, PostgresStreamStore, StreamNotFound, follow, open_store
from streamstores.backends._postgres import notices
from tests.postgres.conftest import until
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
    """The URL of a store that hears of others in one of the two ways, named in the server."""
    name = f"{request.param}-{secrets.token_hex(4)}"
    # So slow a safety poll that only notices can bring anything in time.
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
    """Tasks that follow these streams to their end, once all of them wait for more."""
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
    """A follower that heard of the record `live`: what a new watch costs is past."""
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
    stream_id = secrets.token_hex(8)
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
    assert follower_store.reads <= 22, "one read for each change, whatever the followers"
    assert await sessions(admin, way) <= 4 + 1, "the pool, and one that listens"


async def test_followers_of_two_hundred_streams_hold_no_connection_each(
    way, follower_store, producer_store, admin
):
    ids = [secrets.token_hex(8) for _ in range(STREAMS)]
    await asyncio.gather(*(producer_store.create(stream_id, b"1") for stream_id in ids))
    tasks = await followed(follower_store, ids, 1)
    await asyncio.gather(*(producer_store.append(each, b"2", state="done") for each in ids))
    assert await asyncio.wait_for(asyncio.gather(*tasks), 60) == [b"12"] * STREAMS
    assert await sessions(admin, way) <= 4 + 1


async def test_what_this_process_appends_costs_its_own_followers_no_read(
    way, follower_store, producer_store, monkeypatch
):
    looks = reads_before_each_look(follower_store, monkeypatch)
    stream_id = secrets.token_hex(8)
    await producer_store.create(stream_id)
    follower = await hears(follower_store, producer_store, stream_id)
    if "polling" not in way:

        async def has_looked() -> bool:
            return bool(looks) and follower_store.reads > looks[0]

        await until(has_looked)  # once, when the store had begun to listen
    follower_store.reads = 0
    for _ in range(50):
        await follower_store.append(stream_id, b"x")
    await follower_store.mark_done(stream_id)
    assert len([record async for record in follower]) == 50
    # A poll may see a commit a moment before this process hears that it is done.
    assert follower_store.reads <= (10 if "polling" in way else 0)


def reads_before_each_look(store: Counting, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many reads there had been whenever all watchers were told to look."""
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
    stream_id = secrets.token_hex(8)
    await producer_store.create(stream_id)
    await producer_store.append(stream_id, b"1")
    follower = follow(follower_store, stream_id)
    assert (await follower.__anext__()).data == b"1"
    following = asyncio.ensure_future(follower.__anext__())
    await producer_store.delete(stream_id)
    await producer_store.create(stream_id, b"a namesake")
    with pytest.raises(StreamNotFound):
        await asyncio.wait_for(following, 15)


async def test_a_listening_connection_that_is_cut_loses_nothing(url, admin, producer_store):
    name = f"cut-{secrets.token_hex(4)}"
    stream_id = secrets.token_hex(8)
    await producer_store.create(stream_id)
    # So slow a poll that only notices can bring the end in time.
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


async def test_what_happened_while_nothing_listened_is_looked_for(
    url, admin, producer_store, monkeypatch
):
    monkeypatch.setattr(notices, "BACKOFF_SECONDS", (1.0, 1.0))
    name = f"deaf-{secrets.token_hex(4)}"
    stream_id = secrets.token_hex(8)
    await producer_store.create(stream_id)
    slow = with_options(url, application_name=name, poll_interval=600)
    async with open_store(slow) as store:
        (task,) = await followed(store, [stream_id], 1)
        pid = await listening(admin, name)
        gone = "SELECT pg_terminate_backend($1, 5000)"
        assert await admin.fetchval(gone, pid)
        await producer_store.append(stream_id, b"unheard", state="done")
        assert await asyncio.wait_for(task, 15) == b"unheard"


async def listening(admin: asyncpg.Connection, name: str, instead_of: int = 0) -> int:
    """The process of the session that listens, once there is one, and another one."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 "
        "AND query LIKE 'LISTEN%' AND state = 'idle' AND pid <> $2"
    )
    found: list[int] = []

    async def is_there() -> bool:
        found[:] = [row[0] for row in await admin.fetch(query, name, instead_of)]
        return bool(found)

    await until(is_there)
    return found[0]


async def test_a_cancelled_append_that_happened_is_seen_elsewhere(url, producer_store):
    """Whatever the moment of the cancellation, followers are told to look."""
    stream_id = secrets.token_hex(8)
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


async def test_a_producer_that_closes_right_away_is_heard(url):
    stream_id = secrets.token_hex(8)
    async with open_store(with_options(url, poll_interval=600)) as store:
        await store.create(stream_id)
        (task,) = await followed(store, [stream_id], 1)
        async with open_store(url) as producer:
            await producer.append(stream_id, b"1", state="done")
        assert await asyncio.wait_for(task, 15) == b"1"


def test_many_ids_go_into_few_payloads_that_the_server_takes():
    outbox = {f"{number}" + "\U0001f600" * 60: 2**52 for number in range(500)}
    payloads = list(notices.Notices(None, "c")._payloads(outbox))
    assert all(len(payload.encode()) < 8_000 for payload in payloads)
    assert len(payloads) <= 500 * 270 / 6_500
    lines = [line for payload in payloads for line in payload.split("\n")[1:]]
    assert [line.partition(" ")[2] for line in lines] == list(outbox)


async def test_more_changes_than_the_outbox_holds_wake_everybody():
    sender, receiver = notices.Notices(None, "c"), notices.Notices(None, "c")
    for number in range(notices.OUTBOX + 1):
        sender.changed(f"{number}")
    with receiver.wakeups.subscribe("0") as first:
        for payload in sender._payloads(sender._outbox):
            receiver._heard(None, 0, "c", payload)
        assert await first.wait(0)
