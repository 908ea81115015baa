"""A store, a client, and monitors that are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import StreamStore
from streamstores.http.monitor import create_monitor, only_loopback
from tests.http.serving import serving
from tests.monitor.client import Monitor, Watched


@pytest.fixture
async def store() -> AsyncIterator[Watched]:
    async with Watched() as store:
        yield store


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


@pytest.fixture
async def open_monitor(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def start(store: StreamStore, **options: Any) -> Monitor:
            options = {"authorize": only_loopback, "interval": 0.01, **options}
            monitor = create_monitor(store, **options)
            await stack.enter_async_context(monitor)
            app = Starlette(routes=[Mount("/monitor", monitor)])
            url = await stack.enter_async_context(serving(app))
            return Monitor(url + "/monitor", client)

        yield start
