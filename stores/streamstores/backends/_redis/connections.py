"""Connections of our own, opened with the classes and arguments of redis-py's client."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError


class Endpoint(Protocol):
    """A place to connect to: redis-py's pool, or a node of its cluster client."""

    @property
    def connection_class(self) -> Any: ...

    @property
    def connection_kwargs(self) -> Mapping[str, Any]: ...


class Greeting(NamedTuple):
    """What a server says about itself and about a new connection."""

    address: tuple[str, int]
    """The server at the other end; with Sentinel only known once the connection is open."""
    role: str
    """`master` or `replica`; empty if the server did not say."""
    run_id: bytes
    """The name that a server process gives itself; empty if it is not known."""
    client: tuple[bytes, bytes] | None
    """Id and address of the connection, by which another connection can have it killed; None
    if the server did not say."""


_running: set[asyncio.Task[None]] = set()


def start_task(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a background task, and keep a reference to it until it ends.

    The task belongs to no store, so a store that was never closed can be collected; its
    `__del__` then ends the task.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=f"streamstores: {name}")
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def open_connection(endpoint: Endpoint, timeout: float) -> Connection:
    """Open a connection like those of the client, but without its automatic behaviour.

    No retries, because a request that is repeated after an unclear failure may be applied
    twice. No read timeout, because `SharedConnection` limits the wait for a reply. Always
    RESP2, because the scripts reply with plain bytes.
    """
    options = {
        name: value
        for name, value in endpoint.connection_kwargs.items()
        # Maintenance notifications of newer redis-py: they need RESP3 and the driver's own
        # reader.
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
    connection: Any = endpoint.connection_class(**options)
    try:
        await connection.connect()
    except BaseException:
        await close_connection(connection)
        raise
    opened: Connection = connection
    return opened


async def close_connection(connection: Connection) -> None:
    """Close the connection and wait until it is closed; TLS takes a moment for its goodbye."""
    with suppress(RedisError, OSError):
        await connection.disconnect()


async def greet(connection: Connection, *, with_run_id: bool = False) -> Greeting:
    """Ask the server for its role and for the connection's identity, in one round trip.

    HELLO and CLIENT INFO exist since Redis 6.2 and need no more than the ACL category
    `@connection`; a proxy may know neither. `ROLE` would need `@admin` or `@dangerous`, and so
    does INFO, the only source of the run id: it is asked only if the caller needs it.
    """
    await connection.send_command("HELLO", 2)
    await connection.send_command("CLIENT", "INFO")
    if with_run_id:
        await connection.send_command("INFO", "server")
    server, client = await _reply(connection), await _reply(connection)
    process = await _reply(connection) if with_run_id else None
    # redis-py turns INFO into a dict only in its client, never in a connection.
    _, _, run_id = (process or b"").partition(b"run_id:")
    fields = dict(zip(server[::2], server[1::2], strict=False)) if server else {}
    parts = (part.partition(b"=") for part in (client or b"").split())
    known: dict[bytes, bytes] = {name: value for name, _, value in parts}
    identity = (known[b"id"], known[b"addr"]) if {b"id", b"addr"} <= known.keys() else None
    address = (getattr(connection, "host", ""), getattr(connection, "port", 0))
    role = fields.get(b"role", b"").decode()
    return Greeting(address, role, run_id.partition(b"\r")[0], identity)


def kill_command(client: tuple[bytes, bytes]) -> tuple[Any, ...]:
    """The command that has the server drop a connection, with all it has not processed yet.

    The address is given besides the id, because ids begin again after a restart of the
    server and would then name a stranger.
    """
    client_id, address = client
    return "CLIENT", "KILL", "ID", client_id, "ADDR", address


async def kill_connection(connection: Connection, client: tuple[bytes, bytes]) -> None:
    """Have the server drop another connection; servers that cannot do so are left alone."""
    await connection.send_command(*kill_command(client))
    await _reply(connection)


async def _reply(connection: Connection) -> Any:
    """One reply as bytes; None if the server refuses the command."""
    typed: Any = connection  # redis-py annotates no reply
    try:
        return await typed.read_response(disable_decoding=True)
    except ResponseError:
        return None
