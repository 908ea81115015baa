"""What a Redis store does when its server is away, full, restarted or replaced."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from streamstores import (
    InvalidRequest,
    Limits,
    OutcomeUnknown,
    RedisStreamStore,
    StoreUnavailable,
    StreamWriter,
    follow,
)
from streamstores.backends._redis import pubsub
from streamstores.conformance.faults import Proxy
from tests.redis.helpers import (
    eventually,
    everything,
    has_calls,
    once_available,
    server_or_skip,
)
from tests.services import free_port
from tests.services.redis import (
    VALKEY,
    Server,
    shared,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with server_or_skip(VALKEY, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def test_a_server_that_is_down_is_unavailable():
    url = f"redis://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable):
        async with RedisStreamStore(url):
            pass  # opening it connects
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


async def test_a_plain_url_to_a_node_of_a_cluster_is_refused_with_a_hint():
    node = shared("cluster").removeprefix("redis+cluster://").split(",")[0].split("?")[0]
    async with RedisStreamStore(f"redis://{node}") as store:
        with pytest.raises(StoreUnavailable, match="cluster"):
            for number in range(20):  # some of these belong to the other two masters
                await store.create(f"a-cluster-test-{number}", ttl=60)


async def test_after_a_lost_reply_a_writer_neither_loses_nor_doubles_a_byte(server):
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


async def test_a_late_request_of_a_broken_connection_is_never_applied(server):
    with Proxy(server.port) as wire:
        url = f"redis://127.0.0.1:{wire.port}"
        async with RedisStreamStore(url, timeout=2.0) as store:
            await store.create("a")
            await store.append("a")  # so that the server knows the script
            gate = wire.hold_requests()
            with pytest.raises(OutcomeUnknown):
                await store.append("a", b"x")
            assert (await store.info("a")).tail == 0
            wire.release(gate)
            await store.append("a", b"x")  # the caller has looked, and tries again
            connections = server.ask("CLIENT", "LIST")
            assert connections.count(b" addr=") == 2, "the late connection is gone"
            assert (await store.info("a")).tail == 1


async def test_a_late_request_is_dropped_also_if_another_connection_is_open(server):
    with Proxy(server.port) as wire:
        url = f"redis://127.0.0.1:{wire.port}"
        async with RedisStreamStore(url, timeout=2.0, durability="disk") as store:
            await store.create("a")
            await store.append("a")
            gate = wire.hold_requests()
            late = asyncio.create_task(store.append("a", b"x"))
            await asyncio.sleep(0)
            await store.info("a")  # opens the connection for reads, which stays
            with pytest.raises(OutcomeUnknown):
                await late
            assert (await store.info("a")).tail == 0
            wire.release(gate)
            await store.append("a", b"x")
            assert (await store.info("a")).tail == 1


async def test_a_lost_reply_to_a_read_is_never_an_unknown_outcome(server):
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


async def test_a_silent_server_costs_the_connection_and_the_next_call_opens_another(server):
    with Proxy(server.port) as wire:
        store = RedisStreamStore(f"redis://127.0.0.1:{wire.port}", timeout=1.5)
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


async def test_a_killed_server_with_appendfsync_always_loses_nothing(server):
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


async def test_followers_miss_nothing_while_their_notice_connection_is_killed(server):
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


async def test_a_silent_notice_connection_is_probed_and_then_replaced(server, monkeypatch):
    monkeypatch.setattr(pubsub, "PROBE_SECONDS", 0.1)
    with Proxy(server.port) as wire:
        async with (
            RedisStreamStore(server.url) as store,
            RedisStreamStore(f"redis://127.0.0.1:{wire.port}") as other,
        ):
            await store.create("a")
            following = asyncio.create_task(everything(follow(other, "a")))
            await eventually(lambda: has_calls(server, "ping", 5))
            [connection] = other._channels._connections.values()
            assert connection.failure is None, "it has answered"
            wire.mute()
            await eventually(lambda: _has_failed(connection, "no sign of life"))
            wire.unmute()
            await store.append("a", b"heard", state="done")
            assert await following == b"heard"


async def test_a_user_without_the_pubsub_command_still_sends_notices(server):
    rules = ["on", ">p", "~*", "&*", "+@all", "-pubsub"]
    server.ask("ACL", "SETUSER", "modest", *rules)
    url = f"redis://modest:p@{server.address}"
    async with RedisStreamStore(url) as store, RedisStreamStore(server.url) as other:
        await store.create("a")
        following = asyncio.create_task(everything(follow(other, "a")))
        await store.append("a", b"he")
        await store.append("a", b"ard", state="done")
        assert await following == b"heard"


async def test_if_subscribing_is_forbidden_a_warning_is_logged_and_followers_poll(
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


async def test_a_closed_store_starts_no_task(server):
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


async def test_scripts_are_loaded_again_after_script_flush(server):
    async with RedisStreamStore(server.url) as store:
        await store.create("a")
        for _ in range(5):
            server.ask("SCRIPT", "FLUSH")
            calls = [store.append("a", b"x") for _ in range(10)]
            await asyncio.gather(*calls, store.read("a"), store.info("a"), store.expire("a"))
        assert (await store.info("a")).tail == 50


async def test_a_full_server_refuses_appends_and_still_reads_and_deletes(server):
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


async def _has_failed(connection: pubsub.PubSubConnection, why: str) -> bool:
    return why in str(connection.failure)


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
