"""What a store is made of: a client or a URL, and its options, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from streamstores.backends._redis.keys import Keys
from streamstores.backends._redis.links import Client
from streamstores.backends._redis.urls import make_client, parse_url
from streamstores.errors import InvalidRequest
from streamstores.limits import check_seconds

# durability: the command that waits for it, without its timeout
_DURABILITIES: dict[str, tuple[Any, ...]] = {
    "async": (),
    "replica": (b"WAIT", 1),
    "disk": (b"WAITAOF", 1, 0),
    "replica-disk": (b"WAITAOF", 1, 1),
}


class Settings(NamedTuple):
    client: Client
    owned: Sequence[Client]
    """The clients that the store has to close."""
    keys: Keys
    settle: tuple[Any, ...]
    """The command that waits until a mutation is durable enough; empty: none."""
    timeout: float


def settings_of(
    client: str | Client, prefix: str | None, durability: str | None, timeout: float | None
) -> Settings:
    """The settings; an argument that is None is taken from the URL, or is the default.

    Raises `InvalidRequest`. Nothing connects yet.
    """
    address = parse_url(client) if isinstance(client, str) else None
    given: dict[str, Any] = {"prefix": "streamstores", "durability": "async", "timeout": 5.0}
    given |= address.store if address else {}
    arguments = {"prefix": prefix, "durability": durability, "timeout": timeout}
    given |= {name: value for name, value in arguments.items() if value is not None}
    keys = Keys(given["prefix"])
    seconds = _check_timeout(given["timeout"])
    settle = _settling(given["durability"], seconds)
    if address is not None:
        owned = make_client(address, seconds)
        return Settings(owned[0], owned, keys, settle, seconds)
    return Settings(_check_client(client), (), keys, settle, seconds)


def _check_timeout(timeout: float) -> float:
    check_seconds(timeout, "timeout")
    if not 0 < timeout < math.inf:
        raise InvalidRequest(f"timeout is seconds above 0, not {timeout!r}")
    return timeout


def _check_client(client: Any) -> Client:
    if isinstance(client, RedisCluster):
        options = client.get_connection_kwargs()
    elif isinstance(client, Redis):
        options = client.connection_pool.connection_kwargs
    else:
        raise InvalidRequest("a client of redis.asyncio: Redis or RedisCluster, or a URL")
    if options.get("decode_responses"):
        raise InvalidRequest("streams are bytes: the client must not have decode_responses")
    checked: Client = client
    return checked


def _settling(durability: str, timeout: float) -> tuple[Any, ...]:
    """The server gives up in half the time that a reply may take, so that it always replies."""
    if durability not in _DURABILITIES:
        raise InvalidRequest(f"durability is one of {', '.join(_DURABILITIES)}")
    command = _DURABILITIES[durability]
    return (*command, max(int(timeout * 500), 1)) if command else ()
