"""boto3 in threads: an object for each record, under consecutive keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from benchmarks.subjects import Subject, Take
from benchmarks.subjects.counting_s3 import connect

T = TypeVar("T")

_PAUSE_SECONDS = 0.2


class RawS3(Subject):
    """A reader asks for the next key, and asks again after 0.2 s if there is none."""

    async def open(self) -> None:
        url, self._client, self.requests = connect(self.url)
        parts = urlsplit(url)
        self._bucket, self._prefix = parts.netloc, parts.path.lstrip("/")
        self._threads = ThreadPoolExecutor(16)
        self._counts: dict[str, int] = {}

    async def aclose(self) -> None:
        self._threads.shutdown()
        self._client.close()

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            await self._append(stream_id, chunk)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        async for chunk in source:
            await self._append(stream_id, chunk)

    async def follow(self, stream_id: str, take: Take) -> None:
        number = 0
        while True:
            data = await self._in_thread(self._get, self._key(stream_id, number))
            if data is None:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                number += 1
                take(data)

    async def _append(self, stream_id: str, chunk: bytes) -> None:
        number = self._counts.get(stream_id, 0)
        self._counts[stream_id] = number + 1
        put = partial(self._client.put_object, IfNoneMatch="*", Bucket=self._bucket)
        await self._in_thread(partial(put, Key=self._key(stream_id, number), Body=chunk))

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _get(self, key: str) -> bytes | None:
        try:
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        return data

    def _key(self, stream_id: str, number: int) -> str:
        return f"{self._prefix}/{stream_id}/{number:010d}"
