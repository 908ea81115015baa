"""Which server keeps which stream, and the shared connections to these servers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Union

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)

from streamstores._time_limits import in_time
from streamstores.backends._redis.connections import (
    Endpoint,
    Greeting,
    close_connection,
    greet,
    kill_command,
    kill_connection,
    open_connection,
    start_task,
)
from streamstores.backends._redis.durability import Durability
from streamstores.backends._redis.scripts import Script
from streamstores.backends._redis.sentinels import MasterWatch
from streamstores.backends._redis.shared_connection import (
    HandleReply,
    NotSent,
    SharedConnection,
)
from streamstores.errors import InvalidRequest

RedisClient = Union[Redis, RedisCluster]

MOST_REDIRECTIONS = 8
_FLAGS = {False: b"0", True: b"1"}
PAUSE_SECONDS = 0.05  # between redirections, while the cluster agrees with itself

_ConnectionKey = tuple[str, bool]  # the server's name, and whether mutations are confirmed


class Router:
    """The connections to the servers of one client, made as they are needed.

    A connection that broke is replaced by the next request. Mutations that wait for a
    durability have a connection of their own: replies come in order, so nothing else should
    stand behind them. All connections of a store to one server change their server together.
    """

    def __init__(
        self,
        client: RedisClient,
        owned: Sequence[RedisClient],
        durability: Durability,
        timeout: float,
    ) -> None:
        self._cluster = client if isinstance(client, RedisCluster) else None
        self._pool: Any = None if isinstance(client, RedisCluster) else client.connection_pool
        self._masters: MasterWatch | None = None
        if isinstance(self._pool, SentinelConnectionPool):
            self._masters = MasterWatch(self._pool, timeout, self._switch)
        self._owned = owned
        self._durability = durability
        self.timeout = timeout
        """Seconds for connecting, and for each reply."""
        self._is_closed = False
        self._process: int | None = None  # the one that the connections belong to
        self._refreshing = asyncio.Lock()
        self._connections: dict[_ConnectionKey, SharedConnection] = {}
        self._unfenced: dict[str, list[Greeting]] = {}  # broken, with requests under way
        self.is_cluster = self._cluster is not None
        self.on_break: Callable[[], None] = _do_nothing
        """Called when a connection broke: the outcome of its requests is not known."""
        self.on_switch: Callable[[], None] = _do_nothing
        """Called when another server has become the master."""

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: Any,
        handle: HandleReply,
        is_mutation: bool = False,
    ) -> Any:
        """Run a script on the master that has the keys.

        Costs one round trip, one more if the server does not know the script yet, and one more
        for a mutation with a durability. A mutation gets the arguments that `common.lua`
        explains before its own. Follows the slots of a cluster to where
        they move. Sends a request again only if it was refused or never sent.
        """
        if self._masters is not None:
            await self._masters.wait_for_promotion()
        endpoint = self._pool if self._cluster is None else await self.endpoint_of(keys[0])
        is_confirmed = is_mutation and self._durability.is_awaited
        is_asking = False
        for redirections in range(MOST_REDIRECTIONS):
            connection = self._connection_to(endpoint, is_confirmed)
            # Looked up anew for each attempt, because a broken connection is never used again.
            signature: tuple[Any, ...] = ()
            if is_mutation:
                signature = (connection.name, _FLAGS[self.is_cluster], _FLAGS[is_confirmed])
            request = (b"%d" % len(keys), *keys, *signature, *arguments)
            try:
                result = await _evaluate(connection, is_asking, script, request, handle)
            except ReadOnlyError as exc:  # demoted: new connections lead to the new master
                self._hang_up(name_of(endpoint), exc)
                raise
            except (AskError, TryAgainError, NotSent) as exc:
                # Not `ReplyLost`: that request may have been applied, so it is never repeated.
                is_last = redirections == MOST_REDIRECTIONS - 1
                if not self.is_cluster or is_last or is_refused(exc):
                    raise
                endpoint, is_asking = await self._redirected(exc, keys[0], redirections)
            else:
                if is_confirmed:
                    await self._durability.confirm(connection)
                return result
        raise AssertionError("the last redirection returns or raises")

    async def ask(self, endpoint: Endpoint, *command: Any) -> Any:
        """The reply of this server to a command."""
        return await self._connection_to(endpoint, False).call(*command, handle=_unchanged)

    async def open(self) -> None:
        """Connect, and check that the durability can be had, on each master of a cluster.

        Raises what the connections raise if none of them could be made, or if one of the
        servers refuses the durability.
        """
        is_confirmed = self._durability.is_awaited
        endpoints = await self.masters()
        pings = [
            self._connection_to(each, is_confirmed).call(b"PING", handle=_unchanged)
            for each in (endpoints if is_confirmed else endpoints[:1])
        ]
        results = await asyncio.gather(*pings, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if is_refused(failure) or len(failures) == len(results):
                raise failure

    async def endpoint_of(self, key: bytes) -> Endpoint:
        """The master that has `key`, as far as the client knows."""
        if self._cluster is not None:
            await self._initialize(self._cluster)
            node: Endpoint | None = self._cluster.get_node_from_key(key.decode())
            if node is None:
                raise NotSent("no master has the slot of the stream")
            return node
        pool: Endpoint = self._pool
        return pool

    async def masters(self) -> list[Endpoint]:
        """All masters of a cluster; otherwise the only server."""
        if self._cluster is not None:
            await self._initialize(self._cluster)
            return [*self._cluster.get_primaries()]
        return [self._pool]

    async def refresh(self, key: bytes) -> None:
        """Have the client learn again which master has `key`: it does when it is redirected.

        One at a time: however many callers found a master gone, the client needs no more
        than one connection.
        """
        if self._cluster is not None:
            await in_time(self._refresh(self._cluster, key), self.timeout)

    async def connect(self, endpoint: Endpoint) -> Connection:
        """A connection to the master, for notices."""
        return (await self._open(endpoint))[0]

    def check_process(self) -> None:
        """Raise in a process that was forked after the connections were opened."""
        if self._process is not None and self._process != os.getpid():
            raise InvalidRequest(
                "the store was opened before a fork: its connections belong to the parent "
                "process, so open another store in this one"
            )

    async def aclose(self) -> None:
        self._is_closed = True
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close every connection; the next request opens another."""
        try:
            for connection in self._connections.values():
                await connection.aclose()
            if self._masters is not None:
                await self._masters.aclose()
        finally:  # also if closing is cancelled
            await self._close_owned()

    def hang_up(self) -> None:
        """Let go of everything without waiting, for a store that was never closed."""
        self._is_closed = True
        for connection in self._connections.values():
            connection.hang_up(ConnectionError("the store was never closed"))
        if self._masters is not None:
            self._masters.hang_up()
        asyncio.get_running_loop()  # raises before there is a coroutine that never runs
        start_task(self._close_owned(), "redis close")

    def is_own(self, name: bytes) -> bool:
        """Whether this is the name of a connection of this store that still brings replies."""
        for connection in self._connections.values():
            if connection.name == name:
                return connection.failure is None
        return False

    @property
    def is_open(self) -> bool:
        """Whether this process has connections to close."""
        is_own = self._process in (None, os.getpid())
        return is_own and any(each.failure is None for each in self._connections.values())

    def _connection_to(self, endpoint: Endpoint, is_confirmed: bool) -> SharedConnection:
        """The connection for these requests; another if there is none or it broke."""
        key = (name_of(endpoint), is_confirmed)
        connection = self._connections.get(key)
        if connection is None or connection.failure is not None:
            self._process = os.getpid()
            # The name is random, so that a mutation that commits after its connection broke
            # wakes the followers here like one from another process.
            connection = self._connections[key] = SharedConnection(
                secrets.token_hex(6).encode(),
                partial(self._open, endpoint, is_confirmed),
                partial(self._broke, key[0]),
                self.timeout,
            )
        return connection

    async def _open(
        self, endpoint: Endpoint, is_confirmed: bool = False
    ) -> tuple[Connection, Greeting]:
        """Open a connection, and check that it may be used."""
        connection = await open_connection(endpoint, self.timeout)
        try:
            # Elsewhere Sentinel or the slots of the cluster say which server is meant.
            has_pair = self._durability.is_awaited and not (self._masters or self.is_cluster)
            greeting = await greet(connection, with_run_id=has_pair)
            self._leave_other_processes(greeting.run_id)
            if self._masters is not None:
                host, port = greeting.address
                if greeting.role == "replica":
                    raise ConnectionError(f"{host}:{port} is a replica, not the master")
                await self._masters.admit(greeting.address)
                await self._masters.start()
            # Before the first request, because a read must not come between.
            await self._fence(name_of(endpoint), connection, greeting)
            if is_confirmed:
                await self._durability.check(connection)
        except BaseException:
            await close_connection(connection)
            raise
        return connection, greeting

    async def _fence(self, name: str, connection: Connection, greeting: Greeting) -> None:
        """Have requests dropped that broken connections may have left in the server's buffers.

        After this a mutation with an unknown outcome was applied, or never will be.
        """
        broken = self._unfenced.get(name, [])
        for each in list(broken):
            if each.client is not None and each.address == greeting.address:
                await kill_connection(connection, each.client)
            if each in broken:
                broken.remove(each)

    def _broke(self, name: str, connection: SharedConnection) -> None:
        lost = connection.greeting
        if connection.has_unanswered and lost is not None and not self._is_closed:
            self._unfenced.setdefault(name, []).append(lost)
            for key, other in self._connections.items():
                # Every later request of the other connection stands behind this one.
                is_beside = key[0] == name and other.failure is None and other.greeting
                if is_beside and is_beside.address == lost.address and lost.client is not None:
                    kill = kill_command(lost.client)
                    other.call(*kill, handle=_unchanged).add_done_callback(_ignore_failure)
        self.on_break()

    def _switch(self, address: tuple[str, int]) -> None:
        """Break all connections to servers other than the new master."""
        exc = ConnectionError(f"Sentinel announced {address[0]}:{address[1]} as the master")
        for connection in self._connections.values():
            if connection.greeting is not None and connection.greeting.address != address:
                connection.hang_up(exc)
        self.on_switch()

    def _leave_other_processes(self, run_id: bytes) -> None:
        """Break connections to another server behind the same name, such as a cloud's endpoint
        that has moved on: reads there would not see what is written here."""
        for connection in self._connections.values():
            other = connection.greeting.run_id if connection.greeting is not None else b""
            if run_id and other and other != run_id:
                connection.hang_up(ConnectionError("the address leads to another server now"))

    def _hang_up(self, name: str, exc: Exception) -> None:
        for key, connection in self._connections.items():
            if key[0] == name:
                connection.hang_up(exc)

    async def _initialize(self, client: RedisCluster) -> None:
        await client.initialize()
        if self._is_closed:  # closed meanwhile, so this has opened the client again
            await self._close_owned()
            raise NotSent("the store is closed")

    async def _refresh(self, client: RedisCluster, key: bytes) -> None:
        async with self._refreshing:
            await client.exists(key.decode())

    async def _close_owned(self) -> None:
        for client in self._owned:
            await client.aclose()

    async def _redirected(
        self, exc: Exception, key: bytes, redirections: int
    ) -> tuple[Endpoint, bool]:
        """Where to ask next, and whether only this once (ASK)."""
        if isinstance(exc, AskError) and not isinstance(exc, MovedError):
            assert self._cluster is not None
            asking: Any = exc  # redis-py does not annotate its address
            node: Endpoint | None = self._cluster.get_node(*asking.node_addr)
            if node is not None:
                return node, True
        if redirections:
            await asyncio.sleep(PAUSE_SECONDS * redirections)
        if not isinstance(exc, TryAgainError):
            await self.refresh(key)
        return await self.endpoint_of(key), False


def name_of(endpoint: Endpoint) -> str:
    """The name of a cluster's node; empty for the only server of any other client."""
    name: str = getattr(endpoint, "name", "")
    return name


def is_refused(exc: BaseException) -> bool:
    """Whether a request failed because the store is set up in a way that cannot work."""
    return isinstance(exc.__cause__, InvalidRequest)


async def _evaluate(
    connection: SharedConnection,
    is_asking: bool,
    script: Script,
    arguments: tuple[Any, ...],
    handle: HandleReply,
) -> Any:
    try:
        if is_asking:
            connection.call(b"ASKING", handle=_unchanged).add_done_callback(_ignore_failure)
        return await connection.call(b"EVALSHA", script.digest, *arguments, handle=handle)
    except NoScriptError:  # a fresh server, a failover, SCRIPT FLUSH: nothing has happened
        if is_asking:
            connection.call(b"ASKING", handle=_unchanged).add_done_callback(_ignore_failure)
        return await connection.call(b"EVAL", script.text, *arguments, handle=handle)


def _do_nothing() -> None:
    pass


def _unchanged(reply: Any) -> Any:
    return reply


def _ignore_failure(future: asyncio.Future[Any]) -> None:
    """For a request whose failure shows in the request behind it."""
    if not future.cancelled():
        future.exception()
