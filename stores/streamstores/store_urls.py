"""Store URLs and their schemes: `open_store`, and the only place that imports backends."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from streamstores.errors import InvalidRequest
from streamstores.store import StreamStore
from streamstores.url_options import redacted

__all__ = ["load_class", "open_store"]

ENTRY_POINT_GROUP = "streamstores.stores"

# class: (module, the extra that brings its driver)
_BACKENDS = {
    "MemoryStreamStore": ("streamstores.backends.memory", None),
    "SQLiteStreamStore": ("streamstores.backends.sqlite", "sqlite"),
    "PostgresStreamStore": ("streamstores.backends.postgres", "postgres"),
    "RedisStreamStore": ("streamstores.backends.redis", "redis"),
    "S3StreamStore": ("streamstores.backends.s3", "s3"),
}

# scheme: class
_SCHEMES = {
    "memory": "MemoryStreamStore",
    "sqlite": "SQLiteStreamStore",
    "postgresql": "PostgresStreamStore",
    "postgres": "PostgresStreamStore",
    "redis": "RedisStreamStore",
    "rediss": "RedisStreamStore",
    "redis+sentinel": "RedisStreamStore",
    "redis+cluster": "RedisStreamStore",
    "s3": "S3StreamStore",
}


def open_store(url: str) -> StreamStore:
    """The store that a URL names, at once: it connects on first use or in `async with`.

    `memory://`; `sqlite:///path.db` (`sqlite:////absolute.db`); `postgresql://…`;
    `redis://…`, `rediss://…`, `redis+sentinel://host,host/master`, `redis+cluster://host,host`;
    `s3://bucket/prefix`. Options follow a `?`; the store's class tells which there are. Other
    schemes come from installed packages, by an entry point in the group `streamstores.stores`
    whose name is the scheme and whose object, called with the URL, returns a store.

    Raises `InvalidRequest` for an unknown scheme and for an unknown, repeated or malformed
    option, and `ImportError`, naming the extra to install, if the backend's driver is missing.
    """
    if not isinstance(url, str):
        raise InvalidRequest(f"a store URL is a str, not {type(url).__name__}")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InvalidRequest(
            f"a store URL begins with a scheme, like sqlite:///x.db: {redacted(url)!r}"
        )
    make_store = _factory_of(scheme)
    store: StreamStore = make_store(url)
    return store


def load_class(name: str) -> Any:
    """The store class of this name; imports its driver.

    Raises `ImportError`, naming the extra to install, if the driver is missing.
    """
    module, extra = _BACKENDS[name]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        # A module of ours that is missing is no missing driver.
        if extra is None or (exc.name or "").startswith("streamstores"):
            raise
        raise ImportError(
            f'{name} needs {exc.name}: pip install "streamstores[{extra}]"', name=exc.name
        ) from exc


def _factory_of(scheme: str) -> Any:
    """What makes a store from a URL of this scheme."""
    if scheme in _SCHEMES:
        return load_class(_SCHEMES[scheme]).from_url
    # Only for unknown schemes: to read the entry points takes milliseconds.
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point.name == scheme:
            return entry_point.load()
    known = ", ".join(sorted(_SCHEMES))
    raise InvalidRequest(f"no store for the scheme {scheme!r}; known here: {known}")
