"""What the tests of the Redis store share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from streamstores import Follower, StoreUnavailable
from tests.services import PATIENCE, Unavailable, give_up
from tests.services.redis import VALKEY, Server, own_server

T = TypeVar("T")


@contextmanager
def server_or_skip(kind: str = VALKEY, *arguments: str) -> Iterator[Server]:
    """A server of the test's own; skips the test if there is none."""
    try:
        with own_server(kind, *arguments) as server:
            yield server
    except Unavailable as exc:
        give_up("redis", exc)


async def eventually(condition: Callable[[], Awaitable[T]]) -> T:
    """Wait until `condition` returns something true, and return that."""

    async def wait() -> T:
        while not (result := await condition()):
            await asyncio.sleep(0.01)
        return result

    return await asyncio.wait_for(wait(), PATIENCE)


async def once_available(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns once the store is available."""

    async def attempt() -> list[T]:
        try:
            return [await call()]
        except StoreUnavailable:
            return []

    return (await eventually(attempt))[0]


async def has_replica(server: Server) -> bool:
    """Whether a replica is in step with this master."""
    return b"state=online" in server.ask("INFO", "replication")


async def everything(follower: Follower) -> bytes:
    """All bytes to the end of the stream."""
    return b"".join([record.data async for record in follower])


def statistic(server: Server, name: str) -> str:
    """The value of the first line of INFO that begins so."""
    lines = server.ask("INFO", "all").decode().splitlines()
    return next((line.partition(":")[2] for line in lines if line.startswith(name)), "")


def calls(server: Server, command: str) -> int:
    """How often the server has run this command."""
    found = statistic(server, f"cmdstat_{command}:")
    return int(found.partition("calls=")[2].partition(",")[0] or 0)


async def has_calls(server: Server, command: str, count: int) -> bool:
    return calls(server, command) >= count
