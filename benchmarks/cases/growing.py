"""Growth: what an append and a delivery cost where there are many streams, and where a
stream is long, as multiples of what they cost with few streams and a short one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from statistics import median

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.subjects import Subject
from benchmarks.trial import Trial, records, stop

_BIG_RECORD = b"x" * 65_536
_LIVE = b"live"


async def grow_in_streams(trial: Trial) -> dict[str, float]:
    async with trial.subject() as subject:
        await _create(subject, 0, trial.sizes.few_streams)
        before = await _costs(trial, subject, "s-0")
        await _create(subject, trial.sizes.few_streams, trial.sizes.grown_streams)
        return _growth(before, await _costs(trial, subject, "s-1"))


async def grow_in_length(trial: Trial) -> dict[str, float]:
    async with trial.subject() as subject:
        await _create(subject, 0, 2)
        before = await _costs(trial, subject, "s-0")
        await subject.fill("s-1", [_BIG_RECORD] * (trial.sizes.grown_bytes // 65_536))
        return _growth(before, await _costs(trial, subject, "s-1"))


def _growth(before: tuple[float, float], after: tuple[float, float]) -> dict[str, float]:
    return {"append": after[0] / before[0], "delivery": after[1] / before[1]}


async def _create(subject: Subject, first: int, last: int) -> None:
    for start in range(first, last, 100):
        numbers = range(start, min(start + 100, last))
        await asyncio.gather(*(subject.create(f"s-{number}") for number in numbers))


async def _costs(trial: Trial, subject: Subject, stream_id: str) -> tuple[float, float]:
    """Median seconds of an append, and from a producer's record to its live follower."""
    chunks = records(max(trial.appends // 5, 2))
    appends = []
    for chunk in chunks:
        started = time.perf_counter()
        await subject.append_each(stream_id, [chunk])
        appends.append(time.perf_counter() - started)
    return median(appends), median(await _deliveries(subject, stream_id, chunks[:200]))


async def _deliveries(subject: Subject, stream_id: str, chunks: list[bytes]) -> list[float]:
    pen: asyncio.Queue[bytes] = asyncio.Queue()
    page = _Page()
    tasks = [
        asyncio.create_task(subject.produce(stream_id, _source(pen))),
        asyncio.create_task(subject.follow(stream_id, page.take)),
    ]
    try:
        await page.arrival_of(pen, _LIVE)
        return [await page.arrival_of(pen, chunk) for chunk in chunks]
    finally:
        await stop(tasks)


async def _source(pen: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while True:
        yield await pen.get()


class _Page:
    """What a follower took last."""

    def __init__(self) -> None:
        self._expected = b""
        self._arrived = asyncio.Event()
        self._arrived_at = 0.0

    def take(self, data: bytes) -> None:
        if data == self._expected:
            self._arrived_at = time.perf_counter()
            self._arrived.set()

    async def arrival_of(self, pen: asyncio.Queue[bytes], chunk: bytes) -> float:
        """Seconds until a record that is written now is here."""
        self._expected = b"live " + chunk
        self._arrived.clear()
        started = time.perf_counter()
        pen.put_nowait(self._expected)
        await asyncio.wait_for(self._arrived.wait(), 60)
        return self._arrived_at - started


_METRICS = (
    Metric(
        "append",
        "times before",
        "lower",
        {name: Target(1.2, None) for name in ("memory", "sqlite", "postgres", "redis")},
    ),
    Metric(
        "delivery",
        "times before",
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
