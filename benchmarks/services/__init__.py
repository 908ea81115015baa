"""The servers that keep the streams, those of the tests, and a namespace for each trial.

Each module has a context manager `running()`, which yields a `Service`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

STORES = ("memory", "sqlite", "postgres", "redis", "s3")
CHATS = ("chat-memory", "chat-sqlite", "chat-postgres", "chat-redis")
"""The chat handler on a store: `raw` is plain streaming, which keeps nothing."""
BACKENDS = (*STORES, "http", *CHATS)


class Load(NamedTuple):
    """What a server does for its clients now, and what it has done since its start."""

    connections: int
    operations: int
    """Reads from sockets for Redis, transactions for Postgres."""


class Service(NamedTuple):
    fresh: Callable[[], AbstractContextManager[str]]
    """Yields a URL with an unused namespace, which is emptied at the end."""
    load: Callable[[], Load | None] = lambda: None
    """Asks the server for its load; None if there is no server."""


@contextmanager
def service(backend: str) -> Iterator[Service]:
    """Run the backend's server during the context.

    Raises `tests.services.Unavailable` or `ImportError` if this machine cannot run it.
    """
    module = backend.removeprefix("chat-")
    with importlib.import_module(f"{__name__}.{module}").running() as started:
        yield started
