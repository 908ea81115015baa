"""Sources that do what a test says, and the questions that tests of runs ask of a stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from streamstores import (
    MemoryStreamStore,
    SQLiteStreamStore,
    State,
    StoreUnavailable,
    StreamInfo,
    StreamStore,
)
from streamstores.runs import Runs
from tests.wrapping import Wrapping

HEARTBEAT = 0.05


class Script:
    """A source that yields what the test says, when the test says it."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_closed = asyncio.Event()
        self._lines: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *lines: bytes | Exception | None) -> Script:
        """Bytes to yield, an exception to raise, or None to end."""
        for line in lines:
            self._lines.put_nowait(line)
        return self

    async def source(self) -> AsyncIterator[bytes]:
        try:
            while (line := await self._lines.get()) is not None:
                self.steps += 1
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            self.is_closed.set()


class Reviving:
    """Continues each stream with a script of its own, and counts how often it does."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.calls: Counter[str] = Counter()

    def script(self, stream_id: str) -> Script:
        return self.scripts.setdefault(stream_id, Script())

    def __call__(self, info: StreamInfo) -> AsyncIterator[bytes]:
        return self._source(info)

    async def _source(self, info: StreamInfo) -> AsyncIterator[bytes]:
        self.calls[info.id] += 1
        async for record in self.script(info.id).source():
            yield record


class OneFile:
    """Opens the stores of several processes on the same streams."""

    def __init__(self, path: Path | None, stack: AsyncExitStack) -> None:
        self._path = path
        self._stack = stack
        self._memory = MemoryStreamStore()

    async def open(self) -> StreamStore:
        store = self._memory if self._path is None else SQLiteStreamStore(self._path)
        return await self._stack.enter_async_context(store)


class Cut(Wrapping):
    """A store that one process cannot reach while `is_cut`."""

    is_cut = False

    def __getattribute__(self, name: str) -> Any:
        if name in ("append", "read", "info", "wait") and self.is_cut:
            return _unavailable
        return super().__getattribute__(name)


async def _unavailable(*args: Any, **options: Any) -> Any:
    raise StoreUnavailable("cut off")


async def until(store: StreamStore, stream_id: str, is_so: Callable[[StreamInfo], bool]) -> Any:
    info = await store.info(stream_id)
    while not is_so(info):
        info = await store.wait(stream_id, version=info.version, timeout=30.0)
    return info


async def ended(store: StreamStore, stream_id: str) -> StreamInfo:
    info: StreamInfo = await until(store, stream_id, lambda info: info.state != "streaming")
    return info


async def text(store: StreamStore, stream_id: str) -> bytes:
    return b"".join(record.data for record in (await store.read(stream_id)).records)


async def read_to_end(runs: Runs, stream_id: str, offset: int = 0) -> tuple[bytes, State]:
    follower = await runs.follow(await runs.store.info(stream_id), offset)
    data = b""
    while batch := await follower.batch():
        data += b"".join(record.data for record in batch)
    return data, follower.info.state


async def abandon(runs: Runs, stream_id: str) -> None:
    """End a run as the death of its process would: nothing reaches the store."""
    run = runs._runs[stream_id]
    run._leave()
    await run._writer.abort()
    await run._ended.wait()
