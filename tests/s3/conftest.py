"""Stores with a prefix of their own on the shared server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlencode

import pytest

from streamstores import S3StreamStore
from streamstores.backends._s3 import bucket
from tests.s3.recording_client import RecordingClient
from tests.services.s3 import PATIENCE, S3Server, shared


async def eventually(is_so: Callable[[], bool], step: Callable[[], Awaitable[object]]) -> None:
    """Do `step` until `is_so`. That may depend on S3's time, and so take seconds."""

    async def steps() -> None:
        while not is_so():
            await step()
            await asyncio.sleep(0.1)

    await asyncio.wait_for(steps(), 120)


class Place:
    """A prefix of the bucket, and as many stores on it as a test wants."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.prefix = secrets.token_hex(8)
        self._exits = AsyncExitStack()
        self.client = server.client()
        self._exits.callback(self.client.close)

    def url(self, **options: object) -> str:
        return self.server.url(self.prefix, **options)

    async def store(self, **options: object) -> S3StreamStore:
        return await self._exits.enter_async_context(S3StreamStore(self.url(**options)))

    async def recorded(self, **options: object) -> tuple[S3StreamStore, RecordingClient]:
        """A store whose requests are counted and can be made to fail."""
        client = RecordingClient(self.server)
        self._exits.callback(client.close)
        query = urlencode({"timeout": PATIENCE, **options})
        url = f"s3://{self.server.bucket}/{self.server.prefix}{self.prefix}?{query}"
        store = S3StreamStore(url, client=client)
        await self._exits.enter_async_context(store)
        client.forget()
        return store, client

    def keys(self, folder: str = "") -> list[str]:
        """The keys below the prefix, without it."""
        start = f"{self.server.prefix}{self.prefix}/"
        found = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.server.bucket, Prefix=start + folder
        )
        objects = [each for page in found for each in page.get("Contents", ())]
        return [each["Key"][len(start) :] for each in objects]

    def put(self, key: str, body: bytes) -> None:
        """Write an object past the store."""
        name = f"{self.server.prefix}{self.prefix}/{key}"
        self.client.put_object(Bucket=self.server.bucket, Key=name, Body=body)

    async def aclose(self) -> None:
        await self._exits.aclose()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, with shorter pauses."""
    monkeypatch.setattr(bucket, "_PAUSES", (0.01, 0.02, 0.03))


@pytest.fixture(scope="session")
def server() -> S3Server:
    return shared()


@pytest.fixture
async def place(server: S3Server) -> AsyncIterator[Place]:
    place = Place(server)
    try:
        yield place
    finally:
        await place.aclose()


@pytest.fixture
async def conditional_removal(place: Place) -> None:
    """Skips the test on a server that ignores the conditions of DELETE, like Ceph 16: there a
    store leaves an empty head in the place of a deleted stream, and asks other requests."""
    store = await place.store()
    if not store._storage.bucket.traits.removes_conditionally:
        pytest.skip("this server does not remove an object under a condition")


on_conditional_removal = pytest.mark.usefixtures("conditional_removal")
