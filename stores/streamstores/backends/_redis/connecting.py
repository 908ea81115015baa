"""Connections of our own, to where redis-py's client says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


class Source(Protocol):
    """Where connections to one server come from: redis-py's pool, or its cluster node."""

    @property
    def connection_class(self) -> Any: ...

    @property
    def connection_kwargs(self) -> Mapping[str, Any]: ...


_running: set[asyncio.Task[None]] = set()


def start(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task in the background that is kept until it ends.

    It belongs to no store, so a store that nobody closed can be collected, and end it.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=f"streamstores: {name}")
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def connect(source: Source, timeout: float) -> Connection:
    """A connection of our own, like those of the client but with nothing done behind our back.

    No retries: a request repeated after an unclear failure may be applied twice. No timeout
    a read: the line watches over time. RESP2 always: the scripts reply in plain bytes.
    """
    options = {
        name: value
        for name, value in source.connection_kwargs.items()
        if not name.startswith(("maint_", "maintenance_", "oss_cluster_", "orig_"))
    }
    options |= {
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
    }
    connection: Any = source.connection_class(**options)
    try:
        await connection.connect()
    except BaseException:
        await disconnect(connection)
        raise
    connected: Connection = connection
    return connected


async def disconnect(connection: Connection) -> None:
    """End the connection, and wait until it has: with TLS it takes a moment to say goodbye."""
    with suppress(RedisError, OSError):
        await connection.disconnect()
