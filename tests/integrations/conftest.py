"""Stores that processes share, and processes on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integrations.processes import Process, Start, start_process
from tests.services import postgres, redis

LONG = pytest.mark.long
RELEASE = pytest.mark.release
"""For further stores: an adapter needs nothing of them but the contract."""

EVERY_STORE = pytest.mark.parametrize(
    "store_url",
    [
        "memory",
        pytest.param("sqlite", marks=LONG),
        pytest.param("postgres", marks=RELEASE),
        pytest.param("redis", marks=RELEASE),
    ],
    indirect=True,
)
"""For tests that one process passes too, and so a store in memory."""


SHARED_STORES = [
    "sqlite",
    pytest.param("postgres", marks=RELEASE),
    pytest.param("redis", marks=RELEASE),
]


@contextmanager
def new_store_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if kind == "memory":
        yield "memory://"
    elif kind == "sqlite":
        yield f"sqlite:///{folder}/streams.db"
    elif kind == "postgres":
        with postgres.fresh_schema(postgres.shared()) as url:
            yield url
    else:
        yield redis.with_own_prefix(redis.shared())


@pytest.fixture(params=SHARED_STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    with new_store_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def start(store_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts processes of an application on the store. It counts in the file `CALLS`."""
    (tmp_path / "calls").touch()
    environment = {"STORE": store_url, "CALLS": str(tmp_path / "calls")}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))

        async def start(app: str, **more: str) -> Process:
            return await start_process(stack, client, app, **environment, **more)

        yield start


@pytest.fixture
def calls(tmp_path: Path):
    """How often the application's model was called."""
    return lambda: len((tmp_path / "calls").read_text().splitlines())
