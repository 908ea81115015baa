"""Replay: a stream that is already there, from its start to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.subjects import Subject
from benchmarks.trial import Trial, records, stop

_BIG_RECORD_BYTES = 65_536


async def replay_small_records(trial: Trial) -> dict[str, float]:
    count = trial.sizes.replay_records
    async with trial.subject() as subject:
        seconds = await _replay(subject, records(count))
    return {"records": count / seconds}


async def replay_big_records(trial: Trial) -> dict[str, float]:
    chunk = b"x" * _BIG_RECORD_BYTES
    chunks = [chunk] * (trial.sizes.replay_bytes // _BIG_RECORD_BYTES)
    async with trial.subject() as subject:
        seconds = await _replay(subject, chunks)
    return {"rate": len(chunks) * _BIG_RECORD_BYTES / 1e6 / seconds}


async def _replay(subject: Subject, chunks: Sequence[bytes]) -> float:
    """Seconds from the first question to the last record."""
    await subject.create("s")
    await subject.fill("s", chunks)
    complete = asyncio.get_running_loop().create_future()
    taken = 0

    def take(_data: bytes) -> None:
        nonlocal taken
        taken += 1
        if taken == len(chunks):
            complete.set_result(time.perf_counter())

    started = time.perf_counter()
    reader = asyncio.create_task(subject.follow("s", take))
    await asyncio.wait([reader, complete], return_when=asyncio.FIRST_COMPLETED)
    if not complete.done():
        reader.result()
        raise RuntimeError(f"the reader ended after {taken} of {len(chunks)} records")
    await stop([reader])
    ended: float = complete.result()
    return ended - started


_TARGETS = {"redis": Target(0.8), "postgres": Target(0.8), "sqlite": Target(0.6)}

CASES = (
    Case(
        "replay",
        "Replay of 20,000 records of 20 bytes",
        replay_small_records,
        (Metric("records", "1/s", "higher", _TARGETS),),
        frozenset({"memory", "sqlite", "postgres", "redis"}),
    ),
    Case(
        "replay-big",
        "Replay of 100 MiB in records of 64 KiB",
        replay_big_records,
        (Metric("rate", "MB/s", "higher", _TARGETS),),
        frozenset({"memory", "sqlite", "postgres", "redis"}),
    ),
)
