"""Each trial has a process's memory to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.services import Service


@contextmanager
def running() -> Iterator[Service]:
    yield Service(_fresh)


@contextmanager
def _fresh() -> Iterator[str]:
    yield "memory://"
