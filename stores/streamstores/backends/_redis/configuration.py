"""What a Redis store is made of: a client or a URL, and its options, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from streamstores.backends._redis.durability import Durability
from streamstores.backends._redis.router import RedisClient
from streamstores.backends._redis.stream_keys import StreamKeys
from streamstores.backends._redis.urls import make_clients, parse_url
from streamstores.errors import InvalidRequest
from streamstores.limits import check_seconds
from streamstores.url_options import merged

_DEFAULTS = {"prefix": "streamstores", "durability": "async", "timeout": 5.0}


class RedisConfiguration(NamedTuple):
    client: RedisClient
    owned: Sequence[RedisClient]
    """The clients that the store has to close."""
    keys: StreamKeys
    durability: Durability
    timeout: float
    place: str
    """What `client` points at, as a URL without user, password and options."""


def configure(
    client: str | RedisClient,
    prefix: str | None,
    durability: str | None,
    timeout: float | None,
) -> RedisConfiguration:
    """The configuration; an argument that is None is taken from the URL, or is the default.

    Raises `InvalidRequest`. Nothing connects yet.
    """
    address = parse_url(client) if isinstance(client, str) else None
    arguments = {"prefix": prefix, "durability": durability, "timeout": timeout}
    settings = merged(_DEFAULTS, address.store if address else {}, arguments)
    keys = StreamKeys(settings["prefix"])
    seconds = _check_timeout(settings["timeout"])
    awaited = Durability(settings["durability"], seconds)
    if address is not None:
        owned = make_clients(address, seconds)
        return RedisConfiguration(owned[0], owned, keys, awaited, seconds, address.place)
    checked = _check_client(client)
    return RedisConfiguration(checked, (), keys, awaited, seconds, _place_of(checked))


def _check_timeout(timeout: float) -> float:
    check_seconds(timeout, "timeout")
    if not 0 < timeout < math.inf:
        raise InvalidRequest(f"timeout is seconds above 0, not {timeout!r}")
    return timeout


def _check_client(client: Any) -> RedisClient:
    if isinstance(client, RedisCluster):
        options = client.get_connection_kwargs()
    elif isinstance(client, Redis):
        options = client.connection_pool.connection_kwargs
    else:
        raise InvalidRequest("a client of redis.asyncio: Redis or RedisCluster, or a URL")
    if options.get("decode_responses"):
        raise InvalidRequest("streams are bytes: the client must not have decode_responses")
    checked: RedisClient = client
    return checked


def _place_of(client: RedisClient) -> str:
    """As a URL says it, from the few fields that hold no secret."""
    # The client's own repr shows all other arguments of a connection; which of them are secret
    # differs between versions of redis-py.
    if isinstance(client, RedisCluster):
        nodes = client.get_nodes() or client.nodes_manager.startup_nodes.values()
        return "redis+cluster://" + ",".join(sorted(node.name for node in nodes))
    pool = client.connection_pool
    options = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool):
        name = getattr(pool, "service_name", "")
        return f"redis+sentinel://{name}/{options.get('db') or 0}"
    where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
    return f"redis://{where}/{options.get('db') or 0}"
