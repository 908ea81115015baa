"""Store URLs: the client they ask for, and the options of the store."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster

from streamstores.backends._redis.links import Client
from streamstores.errors import InvalidRequest

_STORE_OPTIONS = {"prefix": str, "durability": str, "timeout": float}
_TLS_OPTIONS = {
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_keyfile_password": str,
}
_SENTINEL_OPTIONS = {"sentinel_username": str, "sentinel_password": str}
_SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster")


class Address(NamedTuple):
    """What a URL says, checked."""

    scheme: str
    hosts: list[tuple[str, int]]
    service: str
    """The name that the sentinels know the master by."""
    connection: dict[str, Any]
    """redis-py's arguments of a connection."""
    sentinel: dict[str, Any]
    """The same for connections to the sentinels."""
    store: dict[str, Any]


def parse_url(url: str) -> Address:
    """The parts of a store URL; raises `InvalidRequest`, also for an option unknown here."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidRequest(f"a Redis URL begins with one of {', '.join(_SCHEMES)}")
    is_sentinel = parts.scheme == "redis+sentinel"
    options = _options(parts, is_sentinel)
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if is_sentinel and path else ""
    if is_sentinel and not service:
        raise InvalidRequest("redis+sentinel://host:26379,host:26379/name-of-the-master")
    if parts.scheme == "redis+cluster" and (path or "db" in options):
        raise InvalidRequest("a cluster has no numbered databases")
    connection = _connection(parts, path, options)
    sentinel = {
        name: options[f"sentinel_{name}"]
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    return Address(
        parts.scheme,
        _hosts(parts, 26_379 if is_sentinel else 6_379),
        service,
        connection,
        sentinel,
        {name: options[name] for name in _STORE_OPTIONS if name in options},
    )


def make_client(address: Address, timeout: float) -> list[Client]:
    """redis-py's client for the address, and after it those of the sentinels."""
    options = {**address.connection, "socket_timeout": timeout, "protocol": 2}
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return [RedisCluster(startup_nodes=nodes, **options)]
    if address.scheme == "redis+sentinel":
        secured = {name: each for name, each in options.items() if name.startswith("ssl")}
        of_sentinels = {**secured, "socket_timeout": timeout, **address.sentinel}
        make_sentinel: Any = Sentinel  # its constructor has no annotations
        sentinel = make_sentinel(address.hosts, sentinel_kwargs=of_sentinels, **options)
        return [sentinel.master_for(address.service), *sentinel.sentinels]
    host, port = address.hosts[0]
    return [Redis(host=host, port=port, **options)]


def _connection(parts: SplitResult, path: list[str], options: dict[str, Any]) -> dict[str, Any]:
    db = path.pop(0) if path else options.get("db", "0")
    if path or not db.isdecimal():
        raise InvalidRequest(f"a database is a number from 0, not {parts.path!r}")
    connection: dict[str, Any] = {} if parts.scheme == "redis+cluster" else {"db": int(db)}
    if parts.username:
        connection["username"] = unquote(parts.username)
    if parts.password:
        connection["password"] = unquote(parts.password)
    if options.get("client_name"):
        connection["client_name"] = options["client_name"]
    return connection | _tls(parts, options)


def _tls(parts: SplitResult, options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if parts.scheme != "rediss" and not options.get("tls"):
        if given:
            raise InvalidRequest("options of TLS need rediss:// or tls=true")
        return {}
    given["ssl"] = True
    if "ssl_verify" in given and not given.pop("ssl_verify"):
        given |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    else:
        given |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return given


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    netloc = parts.netloc.rpartition("@")[2]
    if "," in netloc and parts.scheme in ("redis", "rediss"):
        raise InvalidRequest(f"{parts.scheme}:// takes one host; see redis+cluster://")
    return [_host(each, default_port) for each in netloc.split(",")]


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "localhost", parts.port or default_port
    except ValueError as exc:
        raise InvalidRequest(f"not a host and port: {text!r}") from exc


def _options(parts: SplitResult, is_sentinel: bool) -> dict[str, Any]:
    known: dict[str, Any] = {**_STORE_OPTIONS, "db": str, "client_name": str}
    known |= {**_TLS_OPTIONS, "ssl_verify": _boolean, "tls": _boolean}
    if is_sentinel:
        known |= _SENTINEL_OPTIONS
    options = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise InvalidRequest(f"no option {name!r}; there are {', '.join(sorted(known))}")
        try:
            options[name] = known[name](text)
        except ValueError as exc:
            raise InvalidRequest(f"the option {name} cannot be {text!r}") from exc
    return options


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"
