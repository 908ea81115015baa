"""Growth: the cost of an append and a delivery with many streams or a long stream, as a
multiple of the cost with few streams or a short stream."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import NamedTuple, TypeVar

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.subjects import Subject
from benchmarks.trial import Trial, records, stop

T = TypeVar("T")

_BIG_RECORD = b"x" * 65_536


class _Place(NamedTuple):
    """A stream that is appended to and followed."""

    subject: Subject
    stream_id: str


async def grow_in_streams(trial: Trial) -> dict[str, float]:
    """Compare a namespace of few streams with a namespace of many."""
    with _on_one_cpu():
        return await _grow_in_streams(trial)


async def _grow_in_streams(trial: Trial) -> dict[str, float]:
    async with trial.subject() as small, trial.other_subject() as grown:
        await _create(small, trial.sizes.few_streams)
        await _create(grown, trial.sizes.grown_streams)
        return await _growth(trial, _Place(small, "s-1"), _Place(grown, "s-1"))


async def grow_in_length(trial: Trial) -> dict[str, float]:
    async with trial.subject() as subject:
        await _create(subject, 2)
        await subject.fill("s-1", [_BIG_RECORD] * (trial.sizes.grown_bytes // 65_536))
        return await _growth(trial, _Place(subject, "s-0"), _Place(subject, "s-1"))


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Pin the process to one CPU.

    A store's thread wakes up in half the time if it shares the CPU of the loop. By chance only
    one of the two stores might do so, for the whole trial.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cpus:
        os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        if cpus:
            os.sched_setaffinity(0, cpus)


async def _create(subject: Subject, count: int) -> None:
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        await asyncio.gather(*(subject.create(f"s-{number}") for number in numbers))


async def _growth(trial: Trial, small: _Place, grown: _Place) -> dict[str, float]:
    """Measure both in turns, because a machine and its disk change from second to second."""
    chunks = records(max(trial.appends // 5, 2))
    appends: tuple[list[float], list[float]] = ([], [])
    for turn, chunk in enumerate(chunks):
        for place, seconds in _in_turns(turn, zip((small, grown), appends, strict=True)):
            started = time.perf_counter()
            await place.subject.append_each(place.stream_id, [chunk])
            seconds.append(time.perf_counter() - started)
    deliveries: tuple[list[float], list[float]] = ([], [])
    async with _Page.following(small) as first, _Page.following(grown) as second:
        for turn, chunk in enumerate(chunks[:200]):
            for page, seconds in _in_turns(turn, zip((first, second), deliveries, strict=True)):
                seconds.append(await page.arrival_of(chunk))
    return {
        "append": median(appends[1]) / median(appends[0]),
        "delivery": median(deliveries[1]) / median(deliveries[0]),
    }


def _in_turns(turn: int, pair: Iterable[T]) -> list[T]:
    """The pair in alternating order, because the second to be measured finds its thread
    asleep."""
    return list(pair)[:: 1 if turn % 2 else -1]


class _Page:
    """The producer of a stream and a live follower, to time single deliveries."""

    def __init__(self) -> None:
        self._pen: asyncio.Queue[bytes] = asyncio.Queue()
        self._expected = b""
        self._arrived = asyncio.Event()
        self._arrived_at = 0.0

    @classmethod
    @asynccontextmanager
    async def following(cls, place: _Place) -> AsyncIterator[_Page]:
        page = cls()
        tasks = [
            asyncio.create_task(place.subject.produce(place.stream_id, page._source())),
            asyncio.create_task(place.subject.follow(place.stream_id, page._take)),
        ]
        try:
            await page.arrival_of(b"the first record")
            yield page
        finally:
            await stop(tasks)

    async def arrival_of(self, chunk: bytes) -> float:
        """Seconds until a record that is written now is at the follower."""
        self._expected = b"live " + chunk
        self._arrived.clear()
        started = time.perf_counter()
        self._pen.put_nowait(self._expected)
        await asyncio.wait_for(self._arrived.wait(), 60)
        return self._arrived_at - started

    async def _source(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._pen.get()

    def _take(self, data: bytes) -> None:
        if data == self._expected:
            self._arrived_at = time.perf_counter()
            self._arrived.set()


_METRICS = (
    Metric(
        "append",
        "times the small one",
        "lower",
        {name: Target(1.2, None) for name in ("memory", "sqlite", "postgres", "redis")},
    ),
    Metric(
        "delivery",
        "times the small one",
        "lower",
        {name: Target(1.2, None) for name in ("memory", "sqlite", "postgres", "redis")},
    ),
)
_BACKENDS = frozenset({"memory", "sqlite", "postgres", "redis"})

CASES = (
    Case(
        "grow-streams",
        "From 10 to 10,000 streams",
        grow_in_streams,
        _METRICS,
        _BACKENDS,
        with_peers=False,
    ),
    Case(
        "grow-length",
        "From offset 0 to 100 MiB",
        grow_in_length,
        _METRICS,
        _BACKENDS,
        with_peers=False,
    ),
)
