"""A cluster that moves its slots, and loses a master, under a store that is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from streamstores import (
    Follower,
    Limits,
    OutcomeUnknown,
    Record,
    RedisStreamStore,
    StoreUnavailable,
    StreamWriter,
    follow,
)
from tests.redis.helpers import eventually, everything, once_available
from tests.services import PATIENCE, Unavailable, give_up
from tests.services.redis import OLDEST, VALKEY, Server, own_cluster, own_cluster_replica

KEY = "streamstores:{a}"


@pytest.fixture(scope="module", params=[VALKEY, OLDEST])
def servers(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    try:
        with own_cluster(request.param) as servers:
            yield servers
    except Unavailable as exc:
        give_up("redis-cluster", exc)


def url_of(servers: list[Server]) -> str:
    return "redis+cluster://" + ",".join(server.address for server in servers)


def owns_slot_of_key(server: Server) -> bool:
    """Whether the stream `a` is on this master."""
    slot = server.ask("CLUSTER", "KEYSLOT", KEY)
    lines = server.ask("CLUSTER", "NODES").decode().splitlines()
    ranges = next(line for line in lines if "myself" in line).split()[8:]
    bounds = [part.partition("-") for part in ranges if not part.startswith("[")]
    return any(int(low) <= slot <= int(high or low) for low, _, high in bounds)


class Migration:
    """The slot of the stream on its way from one master to another."""

    def __init__(self, servers: list[Server]) -> None:
        self.slot = servers[0].ask("CLUSTER", "KEYSLOT", KEY)
        self.source = next(each for each in servers if owns_slot_of_key(each))
        self.target = next(each for each in servers if each is not self.source)
        self._ids = [
            each.ask("CLUSTER", "MYID").decode() for each in (self.source, self.target)
        ]
        self._others = [each for each in servers if each not in (self.source, self.target)]

    def begin(self) -> None:
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._ids[0])
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._ids[1])

    def move_keys(self) -> None:
        keys = [KEY, f"{KEY}:records"]
        host, port = "127.0.0.1", self.target.port
        self.source.ask("MIGRATE", host, port, "", 0, 5000, "KEYS", *keys)

    def finish(self) -> None:
        for server in (self.target, self.source, *self._others):
            server.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self._ids[1])


async def test_a_stream_is_written_and_followed_while_its_slot_moves(servers):
    async with (
        RedisStreamStore(url_of(servers)) as store,
        RedisStreamStore(url_of(servers)) as other,
    ):
        await store.create("a", b"0 ")
        following = asyncio.create_task(everything(follow(other, "a")))
        migration = Migration(servers)
        await store.append("a", b"1 ")
        migration.begin()
        await store.append("a", b"2 ")
        migration.move_keys()
        await store.append("a", b"3 ")  # ASK: the slot is still the old master's
        assert (await other.info("a")).tail == 8
        migration.finish()
        await store.append("a", b"4 ")  # MOVED
        async with StreamWriter(store, "a") as writer:
            await writer.write(b"5 ")
        assert await following == b"0 1 2 3 4 5 "
        assert [info.id async for info in store.list()] == ["a"]
        await store.delete("a")


async def test_a_moving_slot_delays_no_follower_of_another_stream(servers):
    async with (
        RedisStreamStore(url_of(servers)) as store,
        RedisStreamStore(url_of(servers), limits=Limits(poll_interval=600)) as other,
    ):
        migration = Migration(servers)
        ids = ["a", *[f"beside {number}" for number in range(60)]]
        for each in ids:
            await store.create(each)
        following = {each: follow(other, each) for each in ids}
        for each in ids:
            await store.append(each, b"1")
            assert (await anext_in_time(following[each])).data == b"1"
        for each in ids:  # by now each of them has subscribed
            await store.append(each, b"2")
            assert (await anext_in_time(following[each])).data == b"2"
        migration.begin()
        migration.move_keys()
        migration.finish()
        for each in ids:
            await store.append(each, b"3")
            assert (await anext_in_time(following[each])).data == b"3", each
        for each in ids:
            await store.mark_done(each)
            with pytest.raises(StopAsyncIteration):
                await anext_in_time(following[each])
            await store.delete(each)


async def test_closing_a_store_that_follows_on_every_node_logs_nothing(servers, caplog):
    async with RedisStreamStore(url_of(servers)) as store:
        ids = [f"stream {number}" for number in range(12)]
        for each in ids:
            await store.create(each, b"x")
        async with RedisStreamStore(url_of(servers)) as other:
            following = [follow(other, each) for each in ids]
            for follower in following:
                await anext_in_time(follower)
            await eventually(lambda: _has_connections(other, 3))
            waiting = [asyncio.create_task(follower.__anext__()) for follower in following]
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, StoreUnavailable)
        for each in ids:
            await store.delete(each)
    assert caplog.text == ""


async def test_a_dead_master_makes_only_its_own_streams_unavailable(servers):
    async with RedisStreamStore(url_of(servers), timeout=2.0) as store:
        ids = [f"stream {number}" for number in range(12)]
        for each in ids:
            await store.create(each)
        # Otherwise the two remaining masters would refuse everything.
        for server in servers:
            server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        servers[0].kill()
        try:
            results = [await _outcome(store, each) for each in ids]
            assert {"there", "unavailable"} == set(results)
        finally:
            servers[0].start()


async def test_a_planned_failover_in_a_cluster_loses_no_acknowledged_append():
    try:
        with own_cluster() as servers:
            old = next(each for each in servers if owns_slot_of_key(each))
            with own_cluster_replica(servers, old) as replica:
                await fail_over(servers, replica)
    except Unavailable as exc:
        give_up("redis-cluster", exc)


async def fail_over(servers: list[Server], replica: Server) -> None:
    """Promote the replica while `a` is appended to and followed, and compare."""
    async with (
        RedisStreamStore(url_of(servers)) as store,
        RedisStreamStore(url_of(servers), limits=Limits(poll_interval=600)) as other,
    ):
        await store.create("a")
        following = asyncio.create_task(everything(follow(other, "a")))
        acknowledged: list[bytes] = []
        replica.ask("CLUSTER", "FAILOVER")
        while len(acknowledged) < 100 or replica.ask("ROLE")[0] != b"master":
            chunk = b"%d " % len(acknowledged)
            info = await once_available(lambda chunk=chunk: store.append("a", chunk))
            assert info.tail == sum(map(len, acknowledged)) + len(chunk)
            acknowledged.append(chunk)
        await once_available(lambda: store.mark_done("a"))
        assert await following == b"".join(acknowledged)


@pytest.mark.long
@pytest.mark.parametrize("kind", [VALKEY, OLDEST])
async def test_an_unplanned_promotion_in_a_cluster_keeps_what_the_replica_confirmed(kind):
    try:
        with own_cluster(kind) as servers:
            old = next(each for each in servers if owns_slot_of_key(each))
            with own_cluster_replica(servers, old, kind) as replica:
                await lose_master(servers, old, replica)
    except Unavailable as exc:
        give_up("redis-cluster", exc)


async def lose_master(servers: list[Server], old: Server, replica: Server) -> None:
    """Kill the master of `a` in the middle of an append; the cluster promotes by itself."""
    acknowledged: list[bytes] = []

    async def append(store: RedisStreamStore) -> None:
        while True:
            chunk = b"%d " % len(acknowledged)
            await store.append("a", chunk, at=sum(map(len, acknowledged)))
            acknowledged.append(chunk)

    async with (
        RedisStreamStore(url_of(servers), durability="replica") as confirmed,
        RedisStreamStore(url_of(servers)) as other,
    ):
        await confirmed.create("a")
        following = asyncio.create_task(everything(follow(other, "a")))
        appending = asyncio.create_task(append(confirmed))
        await eventually(lambda: _has(acknowledged, 100))
        old.kill()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await appending
        await eventually(lambda: _is_master(replica))
        kept = b"".join(acknowledged)
        info = await once_available(lambda: other.info("a"))
        assert info.tail >= len(kept)
        await once_available(lambda: other.mark_done("a"))
        with suppress(StoreUnavailable):  # a follower may hear of the dead master
            assert (await following).startswith(kept)
        assert (await everything(follow(other, "a"))).startswith(kept)


async def _has(found: list[bytes], count: int) -> bool:
    return len(found) >= count


async def _is_master(server: Server) -> bool:
    is_promoted: bool = server.ask("ROLE")[0] == b"master"
    return is_promoted and b"cluster_state:ok" in server.ask("CLUSTER", "INFO")


async def anext_in_time(follower: Follower) -> Record:
    return await asyncio.wait_for(follower.__anext__(), PATIENCE)


async def _has_connections(store: RedisStreamStore, count: int) -> bool:
    return len(store._channels._connections) == count


async def _outcome(store: RedisStreamStore, stream_id: str) -> str:
    try:
        await store.append(stream_id, b"x")
    except (StoreUnavailable, OutcomeUnknown):  # the latter if it was just being sent
        return "unavailable"
    return "there"
