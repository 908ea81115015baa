"""A new file for each trial."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.services import Service


@contextmanager
def running() -> Iterator[Service]:
    yield Service(_fresh)


@contextmanager
def _fresh() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="streamstores-bench-") as folder:
        yield f"sqlite:///{Path(folder) / 'streams.db'}"
