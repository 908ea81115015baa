"""Where the streams are kept: the servers of the tests, and a namespace for each trial.

Each module has a context manager `running()`, which gives a `Service`.
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
    """What a server has to do for its clients at one moment, or has done since its start."""

    connections: int
    operations: int
    """Redis: reads from its sockets. Postgres: transactions."""


class Service(NamedTuple):
    fresh: Callable[[], AbstractContextManager[str]]
    """A URL with a namespace of its own, emptied at the end."""
    load: Callable[[], Load | None] = lambda: None
    """Asks the server; None where there is none."""


@contextmanager
def service(backend: str) -> Iterator[Service]:
    """The backend's server, for as long as the context lasts. Raises
    `tests.services.Unavailable`, or `ImportError`, where this machine cannot run it."""
    module = backend.removeprefix("chat-")
    with importlib.import_module(f"{__name__}.{module}").running() as started:
        yield started
