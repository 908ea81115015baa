"""A prefix of keys for each trial, unlinked at its end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.services.redis import redis_url, with_options

from benchmarks.services import Load, Service
from redis import Redis


@contextmanager
def running() -> Iterator[Service]:
    with redis_url() as url:
        yield Service(partial(_fresh, url), partial(_load, url))


@contextmanager
def _fresh(url: str) -> Iterator[str]:
    prefix = f"bench-{secrets.token_hex(6)}"
    yield with_options(url, prefix=prefix)
    with Redis.from_url(url) as client:
        for key in client.scan_iter(f"{prefix}*", count=1_000):
            client.unlink(key)


def _load(url: str) -> Load:
    with Redis.from_url(url) as client:
        connections = client.info("clients")["connected_clients"] - 1
        return Load(connections, client.info("stats")["total_reads_processed"])
