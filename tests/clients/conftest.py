"""A scripted server, and a Python client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamstores.client import Stream
from tests.http.scripted_server import ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def stream(server: ScriptedServer) -> AsyncIterator[Stream]:
    async with Stream(server.endpoint, backoff=0.001) as stream:
        yield stream
