"""One connection for all requests and one for notices, however many callers there are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from streamstores import (
    Limits,
    RedisStreamStore,
    StreamInfo,
    StreamWriter,
    follow,
)
from streamstores._shared_reader import shared_reader_of
from streamstores.backends._redis.scripts import notice_of
from tests.redis.helpers import (
    calls,
    eventually,
    everything,
    has_calls,
    server_or_skip,
    statistic,
)
from tests.services.redis import OLDEST, VALKEY, Server, shared, with_own_prefix

MANY = 200


@pytest.fixture(params=[VALKEY, OLDEST])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_or_skip(request.param) as server:
        yield server


def patient(url: str) -> RedisStreamStore:
    """A store whose followers read on notices only, for a minute."""
    return RedisStreamStore(url, limits=Limits(poll_interval=60))


async def test_plain_appends_of_another_store_cost_its_followers_no_read(server):
    async with RedisStreamStore(server.url) as store, patient(server.url) as other:
        await store.create("a", ttl=60)
        tasks = [asyncio.create_task(everything(follow(other, "a"))) for _ in range(MANY)]
        await _watching(server, MANY)
        before = calls(server, "evalsha")
        chunks = [[b"%d " % number] * (number % 4) for number in range(100)]
        for some in chunks:
            info = await store.append("a", *some)
        await eventually(lambda: _has_known(other, "a", info))
        assert calls(server, "evalsha") - before == 100
        assert shared_reader_of(other, "a").info == info
        await store.mark_done("a")
        expected = b"".join(b"".join(some) for some in chunks)
        assert await asyncio.gather(*tasks) == [expected] * MANY
        assert calls(server, "evalsha") - before == 100 + 2  # the end, and the read of it
        assert _connections(server) == 3  # two lines, one for notices


@pytest.mark.parametrize("name", ["cluster", "cluster-6.2"])
async def test_plain_appends_in_a_cluster_cost_followers_no_read_either(name, monkeypatch):
    url = with_own_prefix(shared(name))
    async with RedisStreamStore(url) as store, patient(url) as other:
        ids = [f"stream {number}" for number in range(10)]
        for each in ids:
            await store.create(each)
        reads: list[str] = []
        read = other.read
        monkeypatch.setattr(other, "read", lambda *args: reads.append(args[0]) or read(*args))
        tasks = [asyncio.create_task(everything(follow(other, each))) for each in ids]
        # Each is read at first, and once more when its subscription held.
        await eventually(lambda: _has_length(reads, 20))
        for number in range(10):
            for each in ids:
                info = await store.append(each, b"%d" % number)
                await eventually(lambda info=info: _has_known(other, info.id, info))
        assert len(reads) == 20
        for each in ids:
            await store.mark_done(each)
        assert await asyncio.gather(*tasks) == [b"0123456789"] * 10
        assert len(reads) == 30


async def test_a_change_that_does_not_fit_into_a_notice_costs_one_read(server):
    async with RedisStreamStore(server.url) as store, patient(server.url) as other:
        await store.create("a")
        tasks = [asyncio.create_task(everything(follow(other, "a"))) for _ in range(MANY)]
        await _watching(server, MANY)
        before = calls(server, "evalsha")
        big = b"x" * 5000
        for number in range(50):
            change = {"attributes": {"n": str(number)}} if number % 2 else {}
            info = await store.append("a", big, **change)
            await eventually(lambda info=info: _has_known(other, "a", info))
        await store.mark_done("a")
        assert await asyncio.gather(*tasks) == [big * 50] * MANY
        assert calls(server, "evalsha") - before == 51 + 51


async def test_a_lost_notice_costs_one_read_and_nothing_is_lost_or_doubled(server):
    async with RedisStreamStore(server.url) as store, patient(server.url) as other:
        await store.create("a")
        task = asyncio.create_task(everything(follow(other, "a")))
        await _watching(server, 1)
        before = calls(server, "evalsha")
        heard = other.changes.appended
        for number in range(20):
            if number == 10:
                other.changes.appended = lambda *args: setattr(other.changes, "appended", heard)
            info = await store.append("a", b"%d " % number)
            if number != 10:
                await eventually(lambda info=info: _has_known(other, "a", info))
        assert calls(server, "evalsha") - before == 20 + 1
        await store.mark_done("a")
        assert await task == b"".join(b"%d " % number for number in range(20))


async def test_foreign_messages_on_the_channel_of_a_stream_do_no_harm(server):
    async with RedisStreamStore(server.url) as store, RedisStreamStore(server.url) as other:
        info = await store.create("a", b"1")
        task = asyncio.create_task(everything(follow(other, "a")))
        await _watching(server, 1)
        version = b"%d" % (info.version + 1)
        no_number = b"9" * 5_000
        news = version + b" s1\nx\n\n\n1\n2"
        for message in (b"", b"\n", b"x\ny", version, no_number, news):
            server.ask("PUBLISH", "streamstores:{a}", message)
        await store.append("a", b"2", state="done")
        assert await task == b"12"


def test_a_foreign_message_tells_no_version():
    for message in (b"", b"-1 x", b"1_0 x", b"9" * 5_000 + b" x\nnews"):
        assert notice_of(message).version is None


async def test_two_hundred_followed_streams_share_two_connections(server):
    async with RedisStreamStore(server.url) as store, RedisStreamStore(server.url) as other:
        ids = [f"stream {number}" for number in range(MANY)]
        await asyncio.gather(*(store.create(each) for each in ids))
        tasks = [asyncio.create_task(everything(follow(other, each))) for each in ids]
        await eventually(lambda: _has_subscriptions(server, MANY))
        for each in ids:
            await store.append(each, each.encode())
        await asyncio.gather(*(store.mark_done(each) for each in ids))
        assert await asyncio.gather(*tasks) == [each.encode() for each in ids]
        assert _connections(server) == 3
        await eventually(lambda: _has_subscriptions(server, 0))
        # Three reads of each stream at most: its start, its bytes, its end; and the recheck
        # once the subscription is confirmed.
        assert calls(server, "evalsha") <= MANY * (3 + 4) + 10


async def test_a_local_producer_costs_its_followers_no_read(server):
    async with patient(server.url) as store:
        await store.create("a")
        tasks = [asyncio.create_task(everything(follow(store, "a"))) for _ in range(20)]
        await eventually(lambda: _has_subscriptions(server, 1))
        await eventually(lambda: has_calls(server, "evalsha", 22))
        before = calls(server, "evalsha")
        for number in range(100):
            await store.append("a", b"%d " % number)
        await store.mark_done("a")
        await asyncio.gather(*tasks)
        assert calls(server, "evalsha") - before == 101


async def test_cancelled_calls_never_mix_up_the_replies_of_others(server):
    async with RedisStreamStore(server.url) as store:
        names = [f"s{number}" for number in range(20)]
        for name in names:
            await store.create(name, name.encode())
        chance = random.Random(7)

        async def check(name: str) -> None:
            call = chance.choice([store.info, store.read, store.append])
            if call == store.append:
                assert (await call(name, name.encode())).id == name
            elif call == store.info:
                info = await call(name)
                assert info.tail % len(name) == 0
            else:
                page = await call(name)
                assert {record.data for record in page.records} == {name.encode()}

        for _ in range(60):
            tasks = [asyncio.create_task(check(chance.choice(names))) for _ in range(30)]
            for task in chance.sample(tasks, 15):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        assert _connections(server) == 1
        for name in names:
            page = await store.read(name)
            assert page.info.tail == len(name) * len(page.records)


async def test_a_call_that_is_cancelled_before_it_was_sent_is_never_applied(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a")
        await store.append("a", b"1")  # so that the server knows the script
        first = asyncio.create_task(store.append("a", b"2"))
        task = asyncio.create_task(store.append("a", b"3"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await first).tail == 2
        assert (await store.info("a")).tail == 2


async def test_simultaneous_requests_are_sent_together(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a")
        reads = int(statistic(server, "total_reads_processed"))
        await asyncio.gather(*(store.info("a") for _ in range(300)))
        assert int(statistic(server, "total_reads_processed")) - reads < 100


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 2}, {"db": 3}])
async def test_a_client_that_was_passed_in_is_used_and_stays_open(server, options):
    client = Redis(port=server.port, **options)
    async with RedisStreamStore(client, prefix="mine") as store:
        await store.create("a", b"abc")
        following = asyncio.create_task(everything(follow(store, "a")))
        await eventually(lambda: _has_subscriptions(server, 1))
        await RedisStreamStore.append(store, "a", b"def", state="done")
        assert await following == b"abcdef"
    assert sorted(await client.keys()) == [b"mine:{a}", b"mine:{a}:records"]
    await client.aclose()


@pytest.mark.parametrize("name", ["cluster", "cluster-6.2"])
async def test_a_cluster_client_that_was_passed_in_is_used_and_stays_open(name):
    url = with_own_prefix(shared(name))
    host, port = url.removeprefix("redis+cluster://").split(",")[0].split(":")
    async with RedisCluster(host=host, port=int(port)) as client:
        async with RedisStreamStore(client, prefix=url.rpartition("=")[2]) as store:
            async with RedisStreamStore.from_url(url) as other:
                ids = [f"stream {number}" for number in range(30)]
                for each in ids:
                    await store.create(each, b"abc", ttl=60)
                tasks = [asyncio.create_task(everything(follow(other, each))) for each in ids]
                for each in ids:
                    async with StreamWriter(store, each) as writer:
                        await writer.write(b"def")
                assert await asyncio.gather(*tasks) == [b"abcdef"] * 30
                assert {info.id async for info in other.list("stream 1")} == {
                    each for each in ids if each.startswith("stream 1")
                }
        assert await client.ping()


def _connections(server: Server) -> int:
    """The number of clients besides the asking one."""
    return int(server.ask("CLIENT", "LIST").count(b"\n")) - 1


async def _watching(server: Server, count: int) -> None:
    """Wait until `count` followers of a new stream have read it, and the stream was read again
    once its subscription held."""
    await eventually(lambda: has_calls(server, "evalsha", 1 + count + 1))


async def _has_known(store: RedisStreamStore, stream_id: str, info: StreamInfo) -> bool:
    """Whether the followers of the stream have this change."""
    return shared_reader_of(store, stream_id).info.version >= info.version


async def _has_length(items: list[str], length: int) -> bool:
    return len(items) == length


async def _has_subscriptions(server: Server, count: int) -> bool:
    return len(server.ask("PUBSUB", "CHANNELS")) == count
