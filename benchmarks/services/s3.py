"""A prefix of keys for each trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.services.s3 import S3Server, s3_server

from benchmarks.services import Service


@contextmanager
def running() -> Iterator[Service]:
    with s3_server() as server:
        yield Service(partial(_fresh, server))


@contextmanager
def _fresh(server: S3Server) -> Iterator[str]:
    yield server.url()
