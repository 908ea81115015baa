"""The options of the store: from a URL or from arguments, checked, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from streamstores import limits as bounds
from streamstores.errors import InvalidRequest
from streamstores.limits import Limits
from streamstores.url_options import (
    StoreURL,
    count,
    flag,
    one_of,
    seconds,
    split_store_url,
    text,
)

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Pool

SYNCHRONOUS_COMMIT = {"power": None, "process": "off"}
"""What each `durability` sets; None leaves the server's own setting."""

DEFAULTS: dict[str, Any] = {
    "schema": "public",
    "table_prefix": "streamstores_",
    "notify": True,
    "poll_interval": None,
    "min_size": 1,
    "max_size": 10,
    "timeout": 10.0,
    "command_timeout": 30.0,
    "statement_cache_size": None,
    "durability": "power",
}

_TYPES: dict[str, Callable[[str], Any]] = {
    "schema": text,
    "table_prefix": str,  # may be empty
    "notify": flag,
    "poll_interval": seconds,
    "min_size": count,
    "max_size": count,
    "timeout": seconds,
    "command_timeout": seconds,
    "statement_cache_size": count,
    "durability": one_of(*SYNCHRONOUS_COMMIT),
}

# Parameters of libpq that asyncpg understands. It would send any other to the server as a
# setting of the session, and so accept every misspelled option of ours.
_PASSED_ON = frozenset(
    {
        *("host", "port", "user", "password", "dbname", "database", "passfile", "service"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "krbsrvname", "gsslib", "application_name", "options"),
    }
)

_INDEXED_BYTES = 2_600  # an entry of a btree index is at most a third of a page


class ConnectionOptions(NamedTuple):
    """How a store connects if it is not given a pool."""

    min_size: int
    max_size: int
    timeout: float
    """Seconds for connecting, and for a free connection of the pool."""
    command_timeout: float
    """Seconds for one statement."""
    statement_cache_size: int | None
    """None for asyncpg's own; 0 behind poolers that forget prepared statements."""
    durability: str


def split_url(url: str) -> StoreURL:
    """The URL for asyncpg, and the store's own options in it. Raises `InvalidRequest`."""
    return split_store_url(
        url, schemes=("postgresql", "postgres"), options=_TYPES, passed_on=_PASSED_ON
    )


def connection_options(settings: dict[str, Any]) -> ConnectionOptions:
    """Those of the settings that say how to connect, checked. Raises `InvalidRequest`."""
    options = ConnectionOptions(*(settings[name] for name in ConnectionOptions._fields))
    if options.durability not in SYNCHRONOUS_COMMIT:
        raise InvalidRequest(
            f"durability is one of {', '.join(SYNCHRONOUS_COMMIT)}, not {options.durability!r}"
        )
    if not 0 <= options.min_size <= options.max_size or options.max_size < 1:
        raise InvalidRequest("min_size is from 0 to max_size, and max_size at least 1")
    if (options.statement_cache_size or 0) < 0:
        raise InvalidRequest("statement_cache_size is at least 0")
    check_period(options.timeout, "timeout")
    check_period(options.command_timeout, "command_timeout")
    return options


def check_period(value: float, name: str) -> None:
    """Raise unless the value is a finite number of seconds above 0."""
    bounds.check_seconds(value, name)
    if value == 0 or math.isinf(value):
        raise InvalidRequest(f"{name} is seconds above 0, and finite, not {value!r}")


def check_limits(limits: Limits) -> Limits:
    """The limits; raises `InvalidRequest` if they allow ids that no index can hold."""
    if limits.stream_id_bytes > _INDEXED_BYTES:
        raise InvalidRequest(
            f"PostgreSQL indexes at most {_INDEXED_BYTES} bytes of a stream id"
        )
    return limits


def check_pool(pool: Pool, options: ConnectionOptions, *, notify: bool) -> None:
    """Raise unless this is a pool, large enough, and configured by its owner alone."""
    # Not `isinstance`: a wrapper of a pool, for metrics for example, will do.
    if not hasattr(pool, "acquire"):
        raise InvalidRequest(f"target is a URL or an asyncpg pool, not {type(pool).__name__}")
    if options.durability != "power":
        raise InvalidRequest(
            "the durability of a given pool is its own: set synchronous_commit on it"
        )
    if notify and pool.get_max_size() < 2:
        raise InvalidRequest(
            "notices take one connection for themselves: give a pool of two or more"
        )
