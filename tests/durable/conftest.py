"""Stores, servers and clients for the tests of the protocol."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore, StreamStore
from streamstores.http import create_durable_streams_app
from tests.durable.client import Client
from tests.http.serving import KEEP_ALIVE, serving
from tests.services import postgres, redis, s3

Place = Callable[[Path], AbstractContextManager[str]]
Serve = Callable[..., Awaitable[Client]]
Spawn = Callable[[], Awaitable["Process"]]


class Process(Client):
    """A uvicorn process, and a client for it."""

    def __init__(
        self, url: str, client: httpx.AsyncClient, child: asyncio.subprocess.Process
    ) -> None:
        super().__init__(url, client)
        self.child = child


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
    """The URL of an empty store of each kind."""
    with PLACES[request.param](tmp_path) as url:
        yield url


@pytest.fixture(params=[name for name in PLACES if name != "memory"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same for the stores that several processes can share."""
    with PLACES[request.param](tmp_path) as url:
        yield url


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a store, in memory unless given; each call stands for another process."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))

        async def start(store: StreamStore | None = None, **options: Any) -> Client:
            if store is None:
                store = await stack.enter_async_context(MemoryStreamStore())
            app = create_durable_streams_app(store, **options)
            await stack.enter_async_context(app)
            url = await stack.enter_async_context(serving(app, lifespan="off"))
            return Client(url, client)

        yield start


@pytest.fixture
async def spawn(shared_url: str) -> AsyncIterator[Spawn]:
    """Starts processes that share a store."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))

        async def start() -> Process:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "uvicorn", "--port", "0"),
                *KEEP_ALIVE,
                *("--no-access-log", "tests.durable.app:app"),
                env={**os.environ, "STORE_URL": shared_url},
                stderr=asyncio.subprocess.PIPE,
            )
            assert child.stderr is not None
            while b"Uvicorn running on" not in (line := await child.stderr.readline()):
                assert line, "uvicorn did not start"
            drain = asyncio.ensure_future(child.stderr.read())
            stack.push_async_callback(_end, child, drain)
            return Process(line.decode().partition("running on ")[2].split()[0], client, child)

        yield start


async def _end(child: asyncio.subprocess.Process, log: asyncio.Future[bytes]) -> None:
    if child.returncode is None:
        child.kill()
    await child.wait()
    await log
