"""A store behind Sentinel has one view of which server is the master."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from redis.asyncio import Sentinel as SentinelClient

from streamstores import (
    OutcomeUnknown,
    RedisStreamStore,
    StoreUnavailable,
    StreamInfo,
    StreamWriter,
    follow,
)
from tests.redis.helpers import eventually, everything, has_replica, once_available
from tests.services import Unavailable, give_up
from tests.services.redis import OLDEST, VALKEY, Sentinel, Server, own_sentinel


@pytest.fixture(params=[VALKEY, pytest.param(OLDEST, marks=pytest.mark.long)])
def sentinel(request: pytest.FixtureRequest) -> Iterator[Sentinel]:
    try:
        with own_sentinel(request.param) as watch:
            yield watch
    except Unavailable as exc:
        give_up("redis", exc)


def is_master(server: Server) -> bool:
    """Whether the server takes itself for the master.

    The sentinel kills all clients of a server that it demotes, and so perhaps this one.
    """
    try:
        role: bytes = server.ask("ROLE")[0]
    except (OSError, RuntimeError):
        role = server.ask("ROLE")[0]
    return role == b"master"


def tail_on(server: Server) -> int:
    return int(server.ask("HGET", "streamstores:{a}", "tail") or -1)


async def append_somewhere(store: RedisStreamStore, chunk: bytes) -> StreamInfo | None:
    """Append; None if it is not sure to have happened."""
    try:
        return await store.append("a", chunk)
    except (OutcomeUnknown, StoreUnavailable):
        return None


async def test_a_writer_and_a_follower_survive_a_failover(sentinel):
    async with RedisStreamStore(sentinel.url) as store, RedisStreamStore(sentinel.url) as other:
        await store.create("a", ttl=600)
        following = asyncio.create_task(everything(follow(other, "a")))
        writer = StreamWriter(store, "a")
        for number in range(30):
            await writer.write(b"%d " % number)
            await writer.flush()
            if number == 10:
                await eventually(lambda: _is_replicated(sentinel))
                old = sentinel.master
                await asyncio.to_thread(sentinel.fail_over)
        await writer.aclose("done")
        expected = b"".join(b"%d " % number for number in range(30))
        try:
            assert await asyncio.wait_for(following, 60) == expected
        except StoreUnavailable:  # a follower may hear of the failover; a new one goes on
            assert await everything(follow(other, "a")) == expected
        assert sentinel.master is not old


async def test_appends_go_to_the_announced_master_before_the_old_one_is_demoted(sentinel):
    async with RedisStreamStore(sentinel.url) as store:
        await store.create("a")
        old = sentinel.master
        await eventually(lambda: _is_replicated(sentinel))
        await asyncio.to_thread(sentinel.fail_over)
        new = sentinel.master
        await eventually(lambda: _has_landed_on(store, new))
        assert is_master(old), "the old master was demoted before the store could move"


async def test_a_planned_failover_loses_no_acknowledged_append(sentinel):
    async with RedisStreamStore(sentinel.url) as store:
        await store.create("a")
        await eventually(lambda: _is_replicated(sentinel))
        await eventually(lambda: _is_watched(sentinel))
        old = sentinel.master
        promoting = asyncio.create_task(asyncio.to_thread(sentinel.fail_over))
        acknowledged: set[bytes] = set()
        number = 0
        while not promoting.done() or is_master(old):
            chunk = b"%d" % number
            if await append_somewhere(store, chunk) is not None:
                acknowledged.add(chunk)
            number += 1
            await asyncio.sleep(0.001)
        await promoting
        page = await once_available(lambda: store.read("a", max_bytes=100_000_000))
        assert page.next_offset == page.info.tail
        assert acknowledged - {record.data for record in page.records} == set()


@pytest.mark.long
async def test_a_store_that_opens_during_a_failover_waits_for_its_end(sentinel):
    async with RedisStreamStore(sentinel.url) as store:
        await store.create("a")
    await eventually(lambda: _is_replicated(sentinel))
    promoting = asyncio.create_task(asyncio.to_thread(sentinel.fail_over))
    old = sentinel.master
    acknowledged: set[bytes] = set()
    number = 0
    while not promoting.done() or is_master(old):
        chunk = b"%d" % number
        with suppress(StoreUnavailable):  # at times the sentinel says that there is no master
            async with RedisStreamStore(sentinel.url) as store:
                if await append_somewhere(store, chunk) is not None:
                    acknowledged.add(chunk)
        number += 1
    await promoting
    async with RedisStreamStore(sentinel.url) as store:
        page = await store.read("a", max_bytes=100_000_000)
    assert acknowledged - {record.data for record in page.records} == set()


async def test_an_announced_promotion_that_fails_holds_requests_only_for_a_while(sentinel):
    async with RedisStreamStore(sentinel.url, timeout=2.0) as store:
        await store.create("a")
        watch = store._router._masters
        watch.hold()
        appending = asyncio.create_task(store.append("a", b"x"))
        reading = asyncio.create_task(store.info("a"))
        await asyncio.sleep(0)
        [endpoint] = await store._router.masters()
        await store._router.ask(endpoint, b"PING")  # replies come in order
        assert not appending.done()
        assert not reading.done()
        assert (await appending).tail == 1
        assert (await reading).id == "a"


@pytest.mark.long
async def test_reads_see_an_append_that_another_connection_made_after_a_failover(sentinel):
    await eventually(lambda: _is_replicated(sentinel))
    async with RedisStreamStore(sentinel.url, durability="replica") as store:
        await store.create("a")
        await store.info("a")  # from here on there are two connections
        old = sentinel.master
        await asyncio.to_thread(sentinel.fail_over)
        await eventually(lambda: _is_linearizable(store))
        while is_master(old):
            assert await _is_linearizable(store) is not False
        assert await eventually(lambda: _is_linearizable(store))


async def test_a_store_that_fails_to_open_leaves_no_connection(sentinel):
    url = f"redis+sentinel://{sentinel.sentinel.address}/unknown"
    store = RedisStreamStore(url)
    for _ in range(2):  # it may be tried again
        with pytest.raises(StoreUnavailable, match="unknown"):
            async with store:
                pass
        await eventually(lambda: _has_clients(sentinel.sentinel, 1))
    await store.aclose()


async def test_an_unclosed_store_leaves_no_connection_to_the_sentinel(sentinel):
    store = RedisStreamStore(sentinel.url)
    await store.create("a")
    with pytest.warns(ResourceWarning, match="unclosed RedisStreamStore"):
        del store
        gc.collect()
    await eventually(lambda: _has_clients(sentinel.sentinel, 1))  # the test's own


async def test_an_announcement_that_was_missed_is_looked_up(sentinel):
    async with RedisStreamStore(sentinel.url) as store:
        await store.create("a")
        old = sentinel.master
        await eventually(lambda: _is_replicated(sentinel))
        await eventually(lambda: _is_watched(sentinel))
        # The connection to the sentinel is lost, and only comes back after the announcement.
        sentinel.sentinel.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.to_thread(sentinel.fail_over)
        new = sentinel.master
        await eventually(lambda: _has_landed_on(store, new))
        assert is_master(old), "the old master was demoted before the store could move"


async def test_a_replica_is_never_taken_for_the_master(sentinel):
    replica = next(each for each in sentinel.servers if not is_master(each))

    class Outdated(SentinelClient):
        """A sentinel that has not heard of the failover yet."""

        async def discover_master(self, service_name: str) -> tuple[str, int]:
            return "127.0.0.1", replica.port

    outdated = Outdated([("127.0.0.1", sentinel.sentinel.port)])
    client = outdated.master_for(sentinel.NAME)
    store = RedisStreamStore(client)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await store.info("a")
    await store.aclose()
    await client.aclose()
    for each in outdated.sentinels:
        await each.aclose()


async def test_a_dead_master_is_replaced_by_the_promoted_replica(sentinel):
    sentinel.sentinel.ask("SENTINEL", "SET", sentinel.NAME, "down-after-milliseconds", 500)
    async with RedisStreamStore(sentinel.url, timeout=2.0) as store:
        await store.create("a", b"x")
        old = sentinel.master
        await eventually(lambda: _is_replicated(sentinel))
        old.kill()
        info = await once_available(lambda: store.info("a"))
        assert info.tail == 1
        assert (await eventually(lambda: append_somewhere(store, b"y"))).tail == 2
        old.start()


async def _has_clients(server: Server, count: int) -> bool:
    return bool(server.ask("CLIENT", "LIST").count(b"\n") == count)


async def _is_replicated(sentinel: Sentinel) -> bool:
    return await has_replica(sentinel.master)


async def _is_watched(sentinel: Sentinel) -> bool:
    return b" sub=3 " in sentinel.sentinel.ask("CLIENT", "LIST")


async def _has_landed_on(store: RedisStreamStore, server: Server) -> bool:
    info = await append_somewhere(store, b"x")
    return info is not None and tail_on(server) == info.tail


async def _is_linearizable(store: RedisStreamStore) -> bool | None:
    """Whether `info` sees what was just appended; None if nothing was."""
    appended = await append_somewhere(store, b"x")
    if appended is None:
        return None
    return (await once_available(lambda: store.info("a"))).version >= appended.version
