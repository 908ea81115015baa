"""What a mutation waits for, and what happens on servers that cannot give it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from streamstores import (
    InvalidRequest,
    OutcomeUnknown,
    RedisStreamStore,
    StoreUnavailable,
    StreamInfo,
    StreamNotFound,
    StreamWriter,
)
from streamstores.backends._redis.durability import Durability
from streamstores.conformance.faults import Proxy
from tests.redis.helpers import (
    calls,
    eventually,
    has_calls,
    has_replica,
    once_available,
    server_or_skip,
)
from tests.services.redis import OLDEST, VALKEY, Server

INFO_KEY = "streamstores:{a}"


@pytest.fixture(params=[VALKEY, OLDEST])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_or_skip(request.param, "--repl-diskless-sync-delay", "0") as server:
        yield server


def tail_on(server: Server) -> int:
    return int(server.ask("HGET", INFO_KEY, "tail"))


@contextmanager
def replica_of(master: Server, kind: str = VALKEY) -> Iterator[Server]:
    with server_or_skip(kind) as replica:
        replica.ask("REPLICAOF", "127.0.0.1", master.port)
        yield replica
        replica.ask("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def replicated(server: Server) -> AsyncIterator[tuple[RedisStreamStore, Server]]:
    """A store with `durability=replica` and a stream `a`, and the replica."""
    kind = VALKEY if b"valkey" in server.ask("INFO", "server") else OLDEST
    with replica_of(server, kind) as replica:
        await eventually(lambda: has_replica(server))
        async with RedisStreamStore(server.url, durability="replica", timeout=2.0) as store:
            await once_confirmed(store)
            yield store, replica


async def once_confirmed(store: RedisStreamStore) -> None:
    """Create `a`; a replica on a busy machine may take longer than the store waits."""
    try:
        await store.create("a")
    except OutcomeUnknown:
        await eventually(lambda: _is_confirmed(store))


async def _is_confirmed(store: RedisStreamStore) -> bool:
    try:
        await store.append("a")
    except (OutcomeUnknown, StoreUnavailable):
        return False
    return True


async def test_a_mutation_returns_once_a_replica_has_it(server):
    async with replicated(server) as (store, replica):
        await store.append("a", b"x")
        assert replica.ask("HGET", INFO_KEY, "tail") == b"1"


async def test_a_mutation_that_no_replica_confirms_is_an_unknown_outcome(server):
    # The timeout bounds the opening too, which can take a second on a busy machine.
    async with RedisStreamStore(server.url, durability="replica", timeout=2) as store:
        with pytest.raises(OutcomeUnknown, match="confirmed"):
            await store.create("a")
        assert (await store.info("a")).tail == 0  # applied all the same


async def test_a_heartbeat_is_confirmed_like_any_other_append(server):
    async with replicated(server) as (store, replica):
        replica.freeze()
        await eventually(lambda: _is_unconfirmed(store.append("a", b"x")))
        await eventually(lambda: _is_unconfirmed(store.append("a")))
        replica.resume()
        await eventually(lambda: _is_confirmed(store))
        assert tail_on(replica) == tail_on(server) >= 1


async def test_a_repeated_final_state_is_confirmed_although_it_changes_nothing(server):
    async with replicated(server) as (store, replica):
        replica.freeze()
        await eventually(lambda: _is_unconfirmed(store.mark_done("a")))
        for _ in range(2):
            await eventually(lambda: _is_unconfirmed(store.mark_done("a")))
            # A new connection has no writes for the server to confirm.
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await once_available(lambda: store.info("a"))
        replica.resume()
        await eventually(lambda: _is_done_for_sure(store))
        assert replica.ask("HGET", INFO_KEY, "state") == b"done"


async def _is_unconfirmed(call: Awaitable[StreamInfo]) -> bool:
    """Whether the call was applied and not confirmed; fails if it claims to be confirmed."""
    try:
        info = await call
    except OutcomeUnknown as exc:
        return "confirmed by" in str(exc)
    except StoreUnavailable:  # a busy machine
        return False
    raise AssertionError(f"confirmed by a frozen replica: {info}")


async def _is_done_for_sure(store: RedisStreamStore) -> bool:
    try:
        await store.mark_done("a")
    except (OutcomeUnknown, StoreUnavailable):
        return False
    return True


async def test_confirmation_is_asked_on_the_connection_that_wrote(server, monkeypatch):
    async with replicated(server) as (store, _):
        confirm = Durability.confirm

        async def confirm_late(self, connection):
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await confirm(self, connection)

        monkeypatch.setattr(Durability, "confirm", confirm_late)
        before = calls(server, "wait")
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")
        assert calls(server, "wait") == before


@pytest.mark.parametrize("durability", ["disk", "replica-disk"])
async def test_a_server_that_does_not_write_to_disk_is_refused_at_opening(server, durability):
    with pytest.raises(InvalidRequest, match=durability):
        async with RedisStreamStore(server.url, durability=durability):
            pass
    store = RedisStreamStore(server.url, durability=durability)
    with pytest.raises(InvalidRequest, match=durability):
        await store.create("a")
    with pytest.raises(StreamNotFound):
        await store.info("a")
    await store.aclose()


async def test_a_user_without_permission_for_wait_is_refused_at_opening(server):
    server.ask("ACL", "SETUSER", "hasty", "on", ">p", "~*", "&*", "+@all", "-wait")
    store = RedisStreamStore(f"redis://hasty:p@{server.address}", durability="replica")
    with pytest.raises(InvalidRequest, match="durability"):
        await store.create("a")
    await store.aclose()


async def test_a_store_that_waits_for_the_disk_loses_nothing_when_the_server_is_killed():
    with server_or_skip(VALKEY, "--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with RedisStreamStore(f"{server.url}?durability=disk") as store:
            await store.create("a")
            for number in range(3):
                await store.append("a", b"%d" % number)
                server.kill()
                server.start()
                tail = (await once_available(lambda: store.info("a"))).tail
                assert tail == number + 1


async def test_reads_and_mutations_follow_an_address_to_another_server_together():
    arguments = ("--appendonly", "yes")
    with (
        server_or_skip(VALKEY, *arguments) as old,
        server_or_skip(VALKEY, *arguments) as new,
        Proxy(old.port) as endpoint,
    ):
        url = f"redis://127.0.0.1:{endpoint.port}"
        async with RedisStreamStore(url, durability="disk") as store:
            await store.create("a")
            await store.info("a")  # from here on there are two connections
            endpoint.target_port = new.port
            old.ask("CLIENT", "KILL", "ID", _writing_client(old))
            with suppress(OutcomeUnknown, StoreUnavailable, StreamNotFound):
                await store.append("a")  # notices the lost connection
            created = await once_available(lambda: store.create("b"))
            assert await once_available(lambda: store.info("b")) == created


def _writing_client(server: Server) -> str:
    """The id of the client that last waited for the disk."""
    clients = server.ask("CLIENT", "LIST").decode().splitlines()
    [writing] = [client for client in clients if " cmd=waitaof" in client]
    return writing.split()[0].removeprefix("id=")  # type: ignore[no-any-return]


async def test_after_the_disk_is_switched_off_nothing_more_is_applied():
    with server_or_skip(VALKEY, "--appendonly", "yes") as server:
        async with RedisStreamStore(f"{server.url}?durability=disk") as store:
            await store.create("a")
            server.ask("CONFIG", "SET", "appendonly", "no")
            with pytest.raises(OutcomeUnknown, match="(?i)appendonly"):
                await store.append("a", b"x")
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="durability"):
                    await store.append("a", b"y")
            assert (await store.info("a")).tail == 1
            server.ask("CONFIG", "SET", "appendonly", "yes")
            await eventually(lambda: _is_confirmed_again(store))


async def _is_confirmed_again(store: RedisStreamStore) -> bool:
    try:
        await store.append("a", b"z")
    except (StoreUnavailable, OutcomeUnknown):  # until the file is rewritten
        return False
    return True


async def test_a_writer_has_flushed_only_what_a_replica_has_confirmed(server):
    async with replicated(server) as (store, replica):
        writer = StreamWriter(store, "a")
        await writer.write(b"before ")
        await writer.flush()
        replica.freeze()
        await writer.write(b"during ")
        flushing = asyncio.create_task(writer.flush())
        await eventually(lambda: _has_tail(server, 14))
        before = calls(server, "wait")
        await eventually(lambda: has_calls(server, "wait", before + 3))  # it tries again
        assert not flushing.done()
        replica.resume()
        await flushing
        assert replica.ask("HGET", INFO_KEY, "tail") == b"14"
        await writer.aclose("done")
        assert replica.ask("HGET", INFO_KEY, "state") == b"done"


async def test_a_writer_whose_bytes_no_server_can_confirm_fails_at_flush():
    with server_or_skip(VALKEY, "--appendonly", "yes") as server:
        async with RedisStreamStore(server.url, durability="disk") as store:
            await store.create("a")
            writer = StreamWriter(store, "a", retry_for=1.0)
            server.ask("CONFIG", "SET", "appendonly", "no")
            await writer.write(b"x")
            with pytest.raises((OutcomeUnknown, StoreUnavailable)):
                await writer.flush()
            await writer.abort()


async def _has_tail(server: Server, tail: int) -> bool:
    return server.ask("HGET", INFO_KEY, "tail") == b"%d" % tail
