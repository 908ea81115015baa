"""A client of a served monitor, and a store that counts its listings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from streamstores import MemoryStreamStore, StoreUnavailable
from tests.http.serving import Events

PATHS = ["/", "/streams", "/events", "/monitor.css", "/monitor.js"]
LISTINGS = ["/streams", "/events"]
HEADER = {"X-Streamstores-Monitor": "1"}


class Monitor:
    """A served monitor and a client of it."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self._client.get(self.url + path, **options)

    async def streams(self, **params: Any) -> dict[str, Any]:
        answer = await self.get("/streams", params=params)
        assert answer.status_code == 200, answer.text
        snapshot: dict[str, Any] = answer.json()
        return snapshot

    async def act(
        self, action: str, stream: dict[str, Any], headers: dict[str, str] = HEADER, **more: Any
    ) -> httpx.Response:
        """Act on a stream as a snapshot shows it."""
        body = {"action": action, "id": stream["id"], "createdAt": stream["createdAt"], **more}
        return await self._client.post(self.url + "/actions", json=body, headers=headers)

    @asynccontextmanager
    async def look(self, **params: Any) -> AsyncIterator[Events]:
        url = self.url + "/events"
        async with self._client.stream("GET", url, params=params) as response:
            assert response.status_code == 200
            yield Events(response)


async def snapshot(events: Events) -> dict[str, Any]:
    event = await events.next()
    assert event.name == "snapshot", event
    found: dict[str, Any] = json.loads(event.data)
    return found


async def until(events: Events, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first snapshot for which `is_so` holds."""
    while not is_so(found := await snapshot(events)):
        pass
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [stream["id"] for stream in found["streams"]]


class Watched(MemoryStreamStore):
    """Counts its listings, and can fail."""

    listings = 0
    running = 0
    at_once = 0
    fails = False

    async def list(self, prefix: str = "") -> Any:
        self.listings += 1
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            await asyncio.sleep(0)
            if self.fails:
                raise StoreUnavailable("away")
            async for info in super().list(prefix):
                yield info
        finally:
            self.running -= 1
