"""The subjects start their servers themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.services import Service


@contextmanager
def running() -> Iterator[Service]:
    yield Service(_fresh)


@contextmanager
def _fresh() -> Iterator[str]:
    yield "http://127.0.0.1"
