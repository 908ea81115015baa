"""What `bench` measures: appends one after another, delivery to a follower, and a replay."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import NamedTuple

from streamstores.cli.bench.bare_drivers import BareDriver
from streamstores.errors import StreamNotFound
from streamstores.follow import follow
from streamstores.store import State, StreamStore
from streamstores.writer import StreamWriter

__all__ = ["Bench", "Figures"]

_RECORD = b"x" * 20
_RECORDS = 10_000
_AT_ONCE = 1_000
_TTL_SECONDS = 600  # after which the streams of a killed command expire
_SLICES = 4  # the store and the driver take turns, so that a slow moment meets both
_PAUSE_SECONDS = 0.02  # between two records of a live answer


class Figures(NamedTuple):
    """A figure, and how it was at its worst."""

    median: float
    p99: float

    @classmethod
    def of(cls, samples: list[float]) -> Figures:
        ordered = sorted(samples)
        return cls(statistics.median(ordered), ordered[int(len(ordered) * 0.99)])


class Bench(NamedTuple):
    """A store under measurement, the same place opened once more, and the driver beside it."""

    store: StreamStore
    elsewhere: StreamStore
    """Another store on the same backend, as in another process; or the store itself."""
    driver: BareDriver | None
    seconds: float
    """How long each measurement takes, at least one sample of each kind."""
    stream_id: str
    """The start of the ids of the streams that are made, and deleted at the end."""

    async def appends(self) -> tuple[Figures, Figures | None]:
        """Seconds of an append, one after another: the store's and the driver's."""
        async with self._stream("append") as stream_id:
            ours = partial(self.store.append, stream_id, _RECORD)
            theirs = partial(self.driver.append, _RECORD) if self.driver else None
            return await self._in_turns(ours, theirs)

    async def delivery(self) -> Figures:
        """Seconds from a writer's `write` until a follower elsewhere has the record."""
        async with self._stream("delivery") as stream_id:
            following = asyncio.create_task(self._arrivals(stream_id))
            try:
                written = await self._write_at_a_pace(stream_id)
                arrived = await following
            finally:
                following.cancel()
        return Figures.of([end - start for start, end in zip(written, arrived, strict=True)])

    async def replay(self) -> tuple[Figures, Figures | None]:
        """Seconds of reading a finished stream whole: the store's and the driver's."""
        async with self._stream("replay") as stream_id:
            for _ in range(_RECORDS // _AT_ONCE):
                await self.store.append(stream_id, *[_RECORD] * _AT_ONCE)
            await self.store.mark_done(stream_id, State.DONE)
            ours = partial(self._replay, stream_id)
            given = (_RECORD, _RECORDS)
            theirs = partial(self.driver.replay, *given) if self.driver else None
            return await self._in_turns(ours, theirs)

    @contextlib.asynccontextmanager
    async def _stream(self, name: str) -> AsyncGenerator[str, None]:
        stream_id = f"{self.stream_id}/{name}"
        try:
            await self.store.create(stream_id, ttl=_TTL_SECONDS)
            yield stream_id
        finally:
            with contextlib.suppress(StreamNotFound):  # the creation failed or was cancelled
                await self.store.delete(stream_id)

    async def _in_turns(
        self,
        ours: Callable[[], Awaitable[object]],
        theirs: Callable[[], Awaitable[object]] | None,
    ) -> tuple[Figures, Figures | None]:
        """The first call of each is not counted: it opens connections and fills caches."""
        calls = [ours] if theirs is None else [ours, theirs]
        samples: list[list[float]] = [[] for _ in calls]
        for call in calls:
            await call()
        for _ in range(_SLICES):
            for call, taken in zip(calls, samples, strict=True):
                end = time.perf_counter() + self.seconds / _SLICES
                while True:
                    start = time.perf_counter()
                    await call()
                    now = time.perf_counter()
                    taken.append(now - start)
                    if now > end:
                        break
        figures = [Figures.of(taken) for taken in samples]
        return figures[0], figures[1] if theirs else None

    async def _replay(self, stream_id: str) -> None:
        async for _ in follow(self.store, stream_id):
            pass

    async def _arrivals(self, stream_id: str) -> list[float]:
        """When each record arrived."""
        return [time.perf_counter() async for _ in follow(self.elsewhere, stream_id)]

    async def _write_at_a_pace(self, stream_id: str) -> list[float]:
        """When each record was written."""
        written: list[float] = []
        async with StreamWriter(self.store, stream_id) as writer:
            end = time.perf_counter() + self.seconds
            while not written or time.perf_counter() < end:
                await asyncio.sleep(_PAUSE_SECONDS)
                written.append(time.perf_counter())
                await writer.write(_RECORD)
        return written
