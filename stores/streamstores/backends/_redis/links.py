"""Which server keeps which stream, and the lines to these servers."""

from __future__ import annotations

import asyncio
import operator
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Union

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from streamstores.backends._redis.connecting import Source, connect
from streamstores.backends._redis.line import Handle, Line, NotSent, ReplyLost
from streamstores.backends._redis.scripts import Script

Client = Union[Redis, RedisCluster]

MOST_REDIRECTIONS = 8
PAUSE_SECONDS = 0.05  # while the cluster makes up its mind


class Links:
    """The lines to the servers of one client, standalone or cluster, made as they are needed.

    A line that broke is replaced by the next request. Requests that settle have a line of
    their own: replies come in order, so nothing else should stand behind them.
    """

    def __init__(self, client: Client, owned: Sequence[Client], timeout: float) -> None:
        self._cluster = client if isinstance(client, RedisCluster) else None
        self._pool: Any = None if isinstance(client, RedisCluster) else client.connection_pool
        self._owned = owned
        self._timeout = timeout
        self._is_closed = False
        self._refreshing = asyncio.Lock()
        self.on_break: Callable[[], None] = _nothing
        """Called when a line broke: the outcome of what it was asked is not known."""
        self._lines: dict[tuple[str, str], Line] = {}
        self.is_cluster = self._cluster is not None

    async def run(
        self,
        script: Script,
        keys: tuple[bytes, bytes],
        *arguments: Any,
        handle: Handle,
        is_signed: bool = False,
        settle: tuple[Any, ...] = (),
    ) -> Any:
        """Run a script on the master that has the keys: one round trip, two where it is new
        there.

        `is_signed` puts the line's name before the arguments. `settle` is a command to wait
        with until what the script wrote is safe: one more round trip.
        Follows the slots of a cluster where they move to. Only requests that were refused, or
        never sent, are sent anew.
        """
        source = await self.source(keys[0])
        is_asking = False
        for redirections in range(MOST_REDIRECTIONS):
            line = self._line(source, "settling" if settle else "")
            request = (b"2", *keys, *((line.name,) if is_signed else ()), *arguments)
            try:
                result = await _evaluate(line, is_asking, script, request, handle)
            except ReadOnlyError as exc:
                line.hang_up(exc)  # a new connection may lead to the new master
                raise
            except (AskError, TryAgainError, NotSent) as exc:
                if not self.is_cluster or redirections == MOST_REDIRECTIONS - 1:
                    raise
                source, is_asking = await self._redirected(exc, keys[0], redirections)
            else:
                if settle:
                    await _settle(line, settle)
                return result
        raise AssertionError("the last redirection returns or raises")

    async def ask(self, source: Source, *command: Any) -> Any:
        """The reply of this server to a command."""
        return await self._line(source, "").call(*command, handle=_unchanged)

    async def source(self, key: bytes) -> Source:
        """The master that has `key`, as far as the client knows."""
        if self._cluster is not None:
            await self._initialize(self._cluster)
            node: Source | None = self._cluster.get_node_from_key(key.decode())
            if node is None:
                raise NotSent("no master has the slot of the stream")
            return node
        pool: Source = self._pool
        return pool

    async def masters(self) -> list[Source]:
        if self._cluster is not None:
            await self._initialize(self._cluster)
            return [*self._cluster.get_primaries()]
        return [self._pool]

    async def _initialize(self, client: RedisCluster) -> None:
        await client.initialize()
        if self._is_closed:  # meanwhile: then this has opened it again
            await self._close_owned()
            raise NotSent("the store is closed")

    async def refresh(self, key: bytes) -> None:
        """Learn anew which master has `key`: the client does, when it is sent elsewhere.

        One at a time: whatever number of callers found a master gone, the client needs no
        more than one connection.
        """
        if self._cluster is not None:
            await asyncio.wait_for(self._refresh(self._cluster, key), self._timeout)

    async def _refresh(self, client: RedisCluster, key: bytes) -> None:
        async with self._refreshing:
            await client.exists(key.decode())

    async def connect(self, source: Source) -> Connection:
        return await connect(source, self._timeout)

    async def aclose(self) -> None:
        self._is_closed = True
        for line in self._lines.values():
            await line.aclose()
        await self._close_owned()

    async def _close_owned(self) -> None:
        for client in self._owned:
            await client.aclose()

    def hang_up(self) -> None:
        """Let go of everything without waiting, for a store that nobody closed."""
        for line in self._lines.values():
            line.hang_up(ConnectionError("the store was never closed"))

    def is_own(self, name: bytes) -> bool:
        """Whether this is the name of a line of ours that still brings replies."""
        return any(line.name == name and not line.failure for line in self._lines.values())

    def _broken(self) -> None:
        self.on_break()

    @property
    def is_open(self) -> bool:
        return any(line.failure is None for line in self._lines.values())

    def _line(self, source: Source, purpose: str) -> Line:
        name = (getattr(source, "name", ""), purpose)
        line = self._lines.get(name)
        if line is None or line.failure is not None:
            line = Line(
                (b"c" if self.is_cluster else b"s") + secrets.token_hex(6).encode(),
                lambda: self.connect(source),
                self._broken,
                self._timeout,
            )
            self._lines[name] = line
        return line

    async def _redirected(
        self, exc: Exception, key: bytes, redirections: int
    ) -> tuple[Source, bool]:
        """Where to ask next, and whether only this once."""
        if isinstance(exc, AskError) and not isinstance(exc, MovedError):
            assert self._cluster is not None
            node: Source | None = self._cluster.get_node(*exc.node_addr)
            if node is not None:
                return node, True
        if redirections:
            await asyncio.sleep(PAUSE_SECONDS * redirections)
        if not isinstance(exc, TryAgainError):
            await self.refresh(key)
        return await self.source(key), False


async def _evaluate(
    line: Line, is_asking: bool, script: Script, arguments: tuple[Any, ...], handle: Handle
) -> Any:
    try:
        if is_asking:
            line.call(b"ASKING", handle=_unchanged).add_done_callback(_forget)
        return await line.call(b"EVALSHA", script.digest, *arguments, handle=handle)
    except NoScriptError:  # a fresh server, a failover, SCRIPT FLUSH: nothing has happened
        if is_asking:
            line.call(b"ASKING", handle=_unchanged).add_done_callback(_forget)
        return await line.call(b"EVAL", script.text, *arguments, handle=handle)


async def _settle(line: Line, command: tuple[Any, ...]) -> None:
    """Wait, on the connection that wrote: the server answers for what that one has written.

    Raises `ReplyLost` for any failure, because the mutation itself has happened.
    """
    try:
        reply = await line.call(*command, handle=_unchanged)
    except (NotSent, RedisError) as exc:
        raise ReplyLost(f"applied, but not settled: {exc}") from exc
    reached = reply if isinstance(reply, list) else [reply]
    asked = command[1:-1]
    if any(map(operator.lt, reached, asked)):
        raise ReplyLost(f"applied, but in time only {reached} of {[*asked]} have confirmed it")


def _nothing() -> None:
    pass


def _unchanged(reply: Any) -> Any:
    return reply


def _forget(future: asyncio.Future[Any]) -> None:
    """Its failure is that of the request behind it."""
    if not future.cancelled():
        future.exception()
