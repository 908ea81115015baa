"""Redis URLs: the client they ask for, and the options of the store."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection

from streamstores.backends._redis.router import RedisClient
from streamstores.errors import InvalidRequest
from streamstores.url_options import count, flag, redacted, seconds, split_store_url, text

STORE_OPTIONS = {"prefix": text, "durability": text, "timeout": seconds}
_TLS_OPTIONS = {
    "ssl_ca_certs": text,
    "ssl_certfile": text,
    "ssl_keyfile": text,
    "ssl_keyfile_password": text,
    "ssl_verify": flag,
}
_OPTIONS = {**STORE_OPTIONS, **_TLS_OPTIONS, "client_name": text, "db": count, "tls": flag}
_SENTINEL_OPTIONS = {"sentinel_username": text, "sentinel_password": text}
_SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster")


class RedisAddress(NamedTuple):
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

    @property
    def place(self) -> str:
        """The URL without user, password and options."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        db = f"/{self.connection['db']}" if "db" in self.connection else ""
        return f"{self.scheme}://{hosts}{service}{db}"


def parse_url(url: str) -> RedisAddress:
    """The parts of a store URL. Raises `InvalidRequest`, also for an unknown option."""
    is_sentinel = isinstance(url, str) and url.startswith("redis+sentinel:")
    known = {**_OPTIONS, **(_SENTINEL_OPTIONS if is_sentinel else {})}
    parts, options = split_store_url(url, schemes=_SCHEMES, options=known)
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if is_sentinel and path else ""
    if is_sentinel and not service:
        raise InvalidRequest(
            f"the path names the master: redis+sentinel://host:26379/name ({redacted(url)})"
        )
    if parts.scheme == "redis+cluster" and (path or "db" in options):
        raise InvalidRequest(f"a cluster has no numbered databases ({redacted(url)})")
    return RedisAddress(
        parts.scheme,
        _hosts(parts, 26_379 if is_sentinel else 6_379),
        service,
        _connection(parts, path, options),
        {
            name.removeprefix("sentinel_"): value
            for name, value in options.items()
            if name in _SENTINEL_OPTIONS
        },
        {name: value for name, value in options.items() if name in STORE_OPTIONS},
    )


def make_clients(address: RedisAddress, timeout: float) -> list[RedisClient]:
    """redis-py's client for the address, and after it those of the sentinels."""
    options: dict[str, Any] = {
        **address.connection,
        "socket_timeout": timeout,
        "protocol": 2,
    }
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return [RedisCluster(startup_nodes=nodes, **options)]
    if address.scheme == "redis+sentinel":
        secured = {name: value for name, value in options.items() if name.startswith("ssl")}
        of_sentinels = {**secured, "socket_timeout": timeout, **address.sentinel}
        make_sentinel: Any = Sentinel  # its constructor has no annotations
        sentinel = make_sentinel(address.hosts, sentinel_kwargs=of_sentinels, **options)
        # Closing the client of the master leaves those of the sentinels open.
        return [sentinel.master_for(address.service), *sentinel.sentinels]
    host, port = address.hosts[0]
    return [Redis(host=host, port=port, **options)]


def _connection(parts: SplitResult, path: list[str], options: dict[str, Any]) -> dict[str, Any]:
    db = path.pop(0) if path else str(options.get("db", 0))
    if path or not db.isdecimal():
        raise InvalidRequest(f"a database is a number from 0, not {parts.path!r}")
    connection: dict[str, Any] = {} if parts.scheme == "redis+cluster" else {"db": int(db)}
    if parts.username:
        connection["username"] = unquote(parts.username)
    if parts.password:
        connection["password"] = unquote(parts.password)
    if "client_name" in options:
        connection["client_name"] = options["client_name"]
    return connection | _tls(parts, options)


def _tls(parts: SplitResult, options: dict[str, Any]) -> dict[str, Any]:
    """redis-py's arguments for TLS, which checks the certificate unless the URL forbids it."""
    given = {name: value for name, value in options.items() if name in _TLS_OPTIONS}
    if parts.scheme != "rediss" and not options.get("tls"):
        if given:
            raise InvalidRequest("options of TLS need rediss:// or tls=true")
        return {}
    if "ssl_keyfile_password" in given:
        given["ssl_password"] = given.pop("ssl_keyfile_password")
        is_known = "ssl_password" in signature(cast("Any", SSLConnection).__init__).parameters
        if parts.scheme == "redis+cluster" or not is_known:
            raise InvalidRequest(
                "ssl_keyfile_password needs a newer redis-py, which has it for no cluster"
            )
    is_verified = given.pop("ssl_verify", True)
    given |= {
        "ssl": True,
        "ssl_cert_reqs": "required" if is_verified else "none",
        "ssl_check_hostname": is_verified,
    }
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
