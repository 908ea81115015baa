"""What a Redis store does when its server is away, full, restarted or replaced."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from streamstores import (
    CorruptData,
    InvalidRequest,
    Limits,
    OutcomeUnknown,
    RedisStreamStore,
    StoreUnavailable,
    StreamWriter,
    follow,
)
from streamstores.backends._redis import notices
from tests.redis.helpers import (
    eventually,
    everything,
    has_calls,
    once_available,
    server_or_skip,
)
from tests.services import Unavailable, free_port, give_up
from tests.services.redis import (
    OLDEST,
    VALKEY,
    Proxy,
    Sentinel,
    Server,
    own_sentinel,
    shared,
    with_own_prefix,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with server_or_skip(VALKEY, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="module", params=[VALKEY, OLDEST])
def sentinel(request: pytest.FixtureRequest) -> Iterator[Sentinel]:
    try:
        with own_sentinel(request.param) as watch:
            yield watch
    except Unavailable as exc:
        give_up("redis", exc)


async def test_a_server_that_is_away_at_first_is_unavailable_and_used_once_it_is_there():
    url = f"redis://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable):
        async with RedisStreamStore(url):
            pass
    store = RedisStreamStore(url)
    for call in (
        store.create("a"),
        store.append("a", b"x"),
        store.info("a"),
        store.delete("a"),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert isinstance(caught.value.__cause__, Exception)
    await store.aclose()


@pytest.mark.parametrize("url", ["redis://u:wrong@{}", "redis://:wrong@{}", "redis://{}"])
async def test_a_wrong_or_missing_password_is_unavailable(url):
    with server_or_skip(VALKEY, "--requirepass", "right") as server:
        store = RedisStreamStore(url.format(server.address))
        with pytest.raises(StoreUnavailable, match="(?i)pass|auth"):
            await store.create("a")
        await store.aclose()


async def test_a_database_that_the_server_does_not_have_is_unavailable(server):
    store = RedisStreamStore(f"{server.url}/4711")
    with pytest.raises(StoreUnavailable, match="(?i)index"):
        await store.create("a")
    await store.aclose()


async def test_a_plain_client_is_told_that_the_server_is_part_of_a_cluster():
    node = shared("cluster").removeprefix("redis+cluster://").split(",")[0].split("?")[0]
    async with RedisStreamStore(f"redis://{node}") as store:
        with pytest.raises(StoreUnavailable, match="cluster"):
            for number in range(20):  # some of these belong to the other two masters
                await store.create(f"a-cluster-test-{number}", ttl=60)


async def test_a_lost_reply_is_an_unknown_outcome_and_a_writer_goes_on_exactly(server):
    with Proxy(server.port) as wire:
        async with RedisStreamStore(f"redis://127.0.0.1:{wire.port}") as store:
            await store.create("a")
            info = await store.append("a", b"one ")
            wire.mute()
            lost = asyncio.create_task(store.append("a", b"two ", version=info.version))
            await eventually(lambda: _has_tail(server, "a", 8))
            wire.cut()
            with pytest.raises(OutcomeUnknown):
                await lost
            wire.unmute()
            assert (await once_available(lambda: store.read("a"))).info.tail == 8

            writer = StreamWriter(store, "a")
            await writer.write(b"three ")
            await writer.flush()
            wire.mute()
            await writer.write(b"four ")
            await eventually(lambda: _has_tail(server, "a", 19))
            wire.cut()
            wire.unmute()
            await writer.write(b"five")
            await writer.aclose("done")
            page = await store.read("a")
    assert b"".join(record.data for record in page.records) == b"one two three four five"


async def test_a_lost_reply_to_a_read_is_only_unavailable(server):
    with Proxy(server.port) as wire:
        async with RedisStreamStore(f"redis://127.0.0.1:{wire.port}") as store:
            await store.create("a")
            wire.mute()
            lost = asyncio.create_task(store.info("a"))
            await asyncio.sleep(0)
            wire.cut()
            with pytest.raises(StoreUnavailable):
                await lost
            wire.unmute()


async def test_a_server_that_does_not_answer_in_time_breaks_the_line_not_the_store(server):
    with Proxy(server.port) as wire:
        store = RedisStreamStore(f"redis://127.0.0.1:{wire.port}", timeout=0.2)
        await store.create("a")
        await store.append("a")
        wire.mute()
        with pytest.raises(OutcomeUnknown, match="no reply"):
            await store.append("a", b"x")
        with pytest.raises(StoreUnavailable):
            await store.info("a")
        wire.unmute()
        assert (await once_available(lambda: store.info("a"))).tail == 1
        await store.aclose()


async def test_a_restarted_server_loses_nothing_and_followers_go_on(server):
    async with (
        RedisStreamStore(server.url) as store,
        RedisStreamStore(server.url) as other,
    ):
        await store.create("a", b"before ")
        follower = follow(other, "a")
        assert (await follower.__anext__()).data == b"before "
        async with StreamWriter(store, "a") as writer:
            await writer.write(b"and ")
            await writer.flush()
            server.kill()
            await writer.write(b"during ")
            server.start()
            await writer.write(b"and after")
        rest = await _resumed(other, follower.offset)
    assert rest == b"and during and after"


async def test_a_lost_notice_connection_loses_no_notice(server):
    async with (
        RedisStreamStore(server.url) as store,
        RedisStreamStore(server.url) as other,
    ):
        await store.create("a")
        following = asyncio.create_task(everything(follow(other, "a")))
        for number in range(200):
            await store.append("a", b"%d " % number)
            if number % 20 == 0:
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await store.mark_done("a")
        assert await following == b"".join(b"%d " % number for number in range(200))


async def test_a_notice_connection_that_says_nothing_is_asked_and_then_replaced(
    server, monkeypatch
):
    monkeypatch.setattr(notices, "PROBE_SECONDS", 0.1)
    with Proxy(server.port) as wire:
        async with (
            RedisStreamStore(server.url) as store,
            RedisStreamStore(f"redis://127.0.0.1:{wire.port}") as other,
        ):
            await store.create("a")
            following = asyncio.create_task(everything(follow(other, "a")))
            await eventually(lambda: has_calls(server, "ping", 5))
            [listener] = other._notices._listeners.values()
            assert listener.failure is None, "it has answered"
            wire.mute()
            await eventually(lambda: _has_failed(listener, "no sign of life"))
            wire.unmute()
            await store.append("a", b"heard", state="done")
            assert await following == b"heard"


async def test_who_may_not_ask_for_followers_appends_and_tells_them_all_the_same(server):
    rules = ["on", ">p", "~*", "&*", "+@all", "-pubsub"]
    server.ask("ACL", "SETUSER", "modest", *rules)
    url = f"redis://modest:p@{server.address}"
    async with RedisStreamStore(url) as store, RedisStreamStore(server.url) as other:
        await store.create("a")
        following = asyncio.create_task(everything(follow(other, "a")))
        await store.append("a", b"he")
        await store.append("a", b"ard", state="done")
        assert await following == b"heard"


async def test_where_notices_are_forbidden_the_log_says_so_and_the_poll_brings_changes(
    server, caplog
):
    rules = ["on", ">p", "~*", "resetchannels", "+@all", "-subscribe"]
    server.ask("ACL", "SETUSER", "deaf", *rules)
    limits = Limits(poll_interval=0.2)
    url = f"redis://deaf:p@{server.address}"
    async with (
        RedisStreamStore(url, limits=limits) as deaf,
        RedisStreamStore(server.url) as store,
    ):
        await store.create("a")
        following = asyncio.create_task(everything(follow(deaf, "a")))
        await eventually(lambda: _says(caplog, "no notices"))
        await store.append("a", b"heard", state="done")
        assert await following == b"heard"


async def test_a_store_that_was_closed_listens_no_more(server):
    store = RedisStreamStore(server.url)
    await store.create("a")
    await store.aclose()
    before = asyncio.all_tasks()
    with pytest.raises(InvalidRequest):
        await store.wait("a", version=0, timeout=1)
    with pytest.raises(InvalidRequest):
        await follow(store, "a").__anext__()
    assert asyncio.all_tasks() == before


async def test_a_killed_request_connection_is_replaced(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a")
        for _ in range(20):
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with suppress(OutcomeUnknown):
                await once_available(lambda: store.append("a", b"x"))
        page = await once_available(lambda: store.read("a"))
        assert page.info.tail == len(page.records) > 0


async def test_scripts_that_the_server_forgot_are_loaded_again(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a")
        for _ in range(5):
            server.ask("SCRIPT", "FLUSH")
            calls = [store.append("a", b"x") for _ in range(10)]
            await asyncio.gather(*calls, store.read("a"), store.info("a"), store.expire("a"))
        assert (await store.info("a")).tail == 50


async def test_a_failover_is_survived_and_later_appends_reach_the_new_master(sentinel):
    async with RedisStreamStore(sentinel.url) as store, RedisStreamStore(sentinel.url) as other:
        await store.create("a", ttl=600)
        following = asyncio.create_task(everything(follow(other, "a")))
        writer = StreamWriter(store, "a")
        for number in range(30):
            await writer.write(b"%d " % number)
            await writer.flush()
            if number == 10:
                old = sentinel.master
                sentinel.fail_over()
        await writer.aclose("done")
        expected = b"".join(b"%d " % number for number in range(30))
        try:
            assert await asyncio.wait_for(following, 60) == expected
        except StoreUnavailable:  # a follower may hear of the failover; a new one goes on
            assert await everything(follow(other, "a")) == expected
        assert sentinel.master is not old
        await store.delete("a")


async def test_a_full_server_refuses_to_grow_and_still_reads_and_deletes(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a", b"kept")
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="memory"):
            await store.append("a", b"x")
        with pytest.raises(StoreUnavailable, match="memory"):
            await store.create("b", b"x")
        assert [record.data for record in (await store.read("a")).records] == [b"kept"]
        await store.delete("a")
        server.ask("CONFIG", "SET", "maxmemory", 0)
        await store.create("a", b"again")


async def test_keys_that_no_store_wrote_are_corrupt_data():
    url = with_own_prefix(shared("valkey"))
    prefix = url.rpartition("=")[2]
    async with RedisStreamStore(url) as store, Redis.from_url(url.split("?")[0]) as redis:
        await redis.set(f"{prefix}:{{text}}", "x")
        await redis.hset(f"{prefix}:{{hash}}", mapping={"state": "streaming", "tail": "x"})
        await store.create("records", b"abc", b"def", b"ghi")
        await store.create("evicted", b"abc")
        await store.create("odd", b"abc", state="done")
        await redis.xdel(f"{prefix}:{{records}}:records", "6-0")
        await redis.delete(f"{prefix}:{{evicted}}:records")
        await redis.hset(f"{prefix}:{{odd}}", "attributes", "no json")
        for stream_id, call in [
            ("text", store.info),
            ("text", store.append),
            ("text", store.read),
            ("hash", store.info),
            ("hash", store.append),
            ("hash", store.read),
            ("records", store.read),
            ("evicted", store.read),
            ("odd", store.append),
        ]:
            with pytest.raises(CorruptData):
                raise AssertionError(stream_id, await call(stream_id))
        await redis.set(f"{prefix}:{{wrong}}:records", "x")
        async for _ in store.list("e"):
            pass


async def test_a_refused_append_to_a_broken_stream_changes_nothing():
    url = with_own_prefix(shared("valkey"))
    prefix = url.rpartition("=")[2]
    async with RedisStreamStore(url) as store, Redis.from_url(url.split("?")[0]) as redis:
        before = await store.create("a")
        await redis.set(f"{prefix}:{{a}}:records", "not a stream")
        with pytest.raises(CorruptData):
            await store.append("a", b"x", state="done")
        assert await store.info("a") == before


async def test_a_client_that_decodes_is_refused():
    client = Redis(decode_responses=True)
    with pytest.raises(InvalidRequest, match="decode_responses"):
        RedisStreamStore(client)
    await client.aclose()


async def test_an_unclosed_store_warns(server):
    store = RedisStreamStore(server.url)
    await store.create("a")
    waiting = asyncio.create_task(store.wait("a", version=0, timeout=5))
    await waiting
    with pytest.warns(ResourceWarning, match="unclosed RedisStreamStore"):
        del store, waiting
        gc.collect()
    await eventually(lambda: _has_clients(server, 1))


async def _has_tail(server: Server, stream_id: str, tail: int) -> bool:
    stored = server.ask("HGET", f"streamstores:{{{stream_id}}}", "tail")
    return stored == b"%d" % tail


async def _says(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def _has_failed(listener: notices._Listener, why: str) -> bool:
    return why in str(listener.failure)


async def _has_clients(server: Server, count: int) -> bool:
    return server.ask("CLIENT", "LIST").count(b"\n") == count


async def _resumed(store: RedisStreamStore, offset: int) -> bytes:
    """All bytes from `offset`, by as many followers as it takes."""
    data = b""
    while True:
        follower = follow(store, "a", offset + len(data))
        try:
            async for record in follower:
                data += record.data
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            return data
