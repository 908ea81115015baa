"""A thin client of the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.http.serving import Events
from tests.wrapping import Counting

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
CLOSED = {"Stream-Closed": "true"}


def at(offset: int) -> str:
    return f"{0:016d}_{offset:016d}"


def producer(seq: int, epoch: int = 0, name: str = "p") -> dict[str, str]:
    return {"Producer-Id": name, "Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert isinstance(body["error"], str)
    assert body["error"]
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, body["code"]


class Client:
    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._client.request(method, f"{self.url}/{path}", **options)

    async def put(self, path: str, body: Any = b"", **headers: str) -> httpx.Response:
        return await self.ask("PUT", path, content=body, headers={**TEXT, **headers})

    async def post(self, path: str, body: Any = b"", **headers: str) -> httpx.Response:
        return await self.ask("POST", path, content=body, headers={**TEXT, **headers})

    async def get(self, path: str, **params: str) -> httpx.Response:
        return await self.ask("GET", path, params=params)

    async def head(self, path: str) -> httpx.Response:
        return await self.ask("HEAD", path)

    async def delete(self, path: str) -> httpx.Response:
        return await self.ask("DELETE", path)

    async def fork(self, path: str, source: str, body: Any = b"", **headers: str) -> Any:
        headers = {"Stream-Forked-From": f"/{source}", **headers}
        return await self.ask("PUT", path, content=body, headers=headers)

    async def text(self, path: str) -> str:
        """All of a stream, page by page."""
        text, offset = "", "-1"
        while True:
            response = await self.get(path, offset=offset)
            assert response.status_code == 200, response.text
            text += response.text
            offset = response.headers["stream-next-offset"]
            if response.headers.get("stream-up-to-date") == "true":
                return text

    @asynccontextmanager
    async def live(self, path: str, offset: str = "-1", **params: str) -> AsyncIterator[Events]:
        query = {"offset": offset, "live": "sse", **params}
        url = f"{self.url}/{path}"
        async with self._client.stream("GET", url, params=query) as response:
            assert response.status_code == 200, await response.aread()
            yield Events(response)


async def next_pair(events: Events) -> tuple[str | None, dict[str, Any]]:
    """The next data, if the next event has any, and its control event."""
    event = await anext(events)
    if event.name == "control":
        return None, json.loads(event.data)
    assert event.name == "data"
    control = await anext(events)
    assert control.name == "control"
    return event.data, json.loads(control.data)


async def until_reads(store: Counting, count: int) -> None:
    """Wait for that many reads. A waiting reader has made two: its own, and its follower's."""
    while store.calls["read"] < count:
        await asyncio.sleep(0.001)
