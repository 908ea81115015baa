"""Where the tests of the protocol keep their streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.services import postgres, redis, s3

Place = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    with postgres.fresh_schema(postgres.shared()) as url:
        yield url


PLACES: dict[str, Place] = {
    "memory": lambda folder: nullcontext("memory://"),
    "sqlite": lambda folder: nullcontext(f"sqlite:///{folder / 'streams.db'}"),
    "postgres": _postgres,
    "redis": lambda folder: nullcontext(redis.with_own_prefix(redis.shared("valkey"))),
    "s3": lambda folder: nullcontext(s3.shared().url()),
}


@pytest.fixture(params=PLACES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A URL of each kind of store, with nothing in it."""
    with PLACES[request.param](tmp_path) as url:
        yield url


@pytest.fixture(params=[name for name in PLACES if name != "memory"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same, of those that several processes can share."""
    with PLACES[request.param](tmp_path) as url:
        yield url
