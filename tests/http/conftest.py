"""Served chat handlers, and a client for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore, StreamStore
from streamstores.http import StreamHandler, create_stream_handler
from tests.http.serving import Events, serving

Serve = Callable[..., Awaitable["Chat"]]


class Chat:
    """A served chat handler and a client of it."""

    def __init__(self, handler: StreamHandler, url: str, client: httpx.AsyncClient) -> None:
        self.handler = handler
        self.url = url
        self._client = client

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self._client.get(self.url + path, params=params)

    async def post(self, path: str, **fields: Any) -> httpx.Response:
        return await self._client.post(self.url + path, json=fields)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._client.request(method, self.url + path, **options)

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[Events]:
        """The events of a response as they come."""
        async with self._client.stream(method, self.url + path, **options) as response:
            assert response.status_code == 200, await response.aread()
            yield Events(response)

    async def refused(self, path: str, **fields: Any) -> tuple[int, str]:
        """Status and code of a refusal. Fails at once if events come instead."""
        async with self._client.stream("POST", self.url + path, json=fields) as response:
            assert response.status_code != 200, "the request was answered"
            body = json.loads(await response.aread())
            return response.status_code, body["code"]

    def start(self, prompt: str = "hi", **fields: Any) -> Any:
        return self.open("POST", "/stream", json={"prompt": prompt, **fields})

    def follow(self, stream_id: str, after: int = 0) -> Any:
        params = {"id": stream_id, "after": after, "mode": "follow"}
        return self.open("GET", "/stream/resume", params=params)

    def resume(self, stream_id: str, after: int = 0) -> Any:
        return self.open("GET", "/stream/resume", params={"id": stream_id, "after": after})


@pytest.fixture
async def chat_store() -> AsyncIterator[StreamStore]:
    async with MemoryStreamStore() as store:
        yield store


@pytest.fixture
async def serve(chat_store: StreamStore) -> AsyncIterator[Serve]:
    """Serves `create_stream_handler(models, store, …)`; each call is like another process."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))

        async def start(models: Any, store: StreamStore | None = None, **options: Any) -> Chat:
            options = {"heartbeat": 0.05, **options}
            handler = create_stream_handler(models, store or chat_store, **options)
            await stack.enter_async_context(handler)
            url = await stack.enter_async_context(serving(handler, lifespan="off"))
            return Chat(handler, url, client)

        yield start
