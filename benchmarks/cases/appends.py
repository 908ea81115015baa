"""Appending: one after another, many streams at once, and a writer at full speed."""

from __future__ import annotations

import asyncio
import time

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.subjects import Subject
from benchmarks.trial import Trial, records


async def append_one_after_another(trial: Trial) -> dict[str, float]:
    async with trial.subject() as subject:
        await subject.create("s")
        chunks = records(trial.appends)
        started = time.perf_counter()
        await subject.append_each("s", chunks)
        return {"appends": len(chunks) / (time.perf_counter() - started)}


async def append_to_many(trial: Trial) -> dict[str, float]:
    """`speedup` is over one stream with the same subject in the same trial."""
    async with trial.subject() as subject:
        one = await _appends_a_second(subject, 1, trial.appends // 4, "one")
        count = trial.sizes.streams_at_once
        many = await _appends_a_second(subject, count, trial.appends * 2 // count, "many")
        return {"appends": many, "speedup": many / one}


async def _appends_a_second(subject: Subject, streams: int, each: int, prefix: str) -> float:
    ids = [f"{prefix}-{number}" for number in range(streams)]
    for stream_id in ids:
        await subject.create(stream_id)
    chunks = records(max(each, 2))
    started = time.perf_counter()
    await asyncio.gather(*(subject.append_each(stream_id, chunks) for stream_id in ids))
    return streams * len(chunks) / (time.perf_counter() - started)


async def write_at_full_speed(trial: Trial) -> dict[str, float]:
    async with trial.subject() as subject:
        await subject.create("s")
        chunks = records(trial.written)
        started = time.perf_counter()
        await subject.write("s", chunks)
        return {"records": len(chunks) / (time.perf_counter() - started)}


CASES = (
    Case(
        "append",
        "Append, one after another",
        append_one_after_another,
        (
            Metric(
                "appends",
                "1/s",
                "higher",
                {
                    "memory": Target(0.25),
                    "sqlite": Target(0.9),
                    "postgres": Target(0.9, "raw, prepared"),
                    "redis": Target(0.85),
                },
            ),
        ),
    ),
    Case(
        "append-many",
        "Append to 64 streams at once",
        append_to_many,
        (
            Metric("appends", "1/s", "higher", {"postgres": Target(3)}),
            Metric(
                "speedup",
                "times one stream",
                "higher",
                {"sqlite": Target(5, None), "postgres": Target(1.0)},
                of_itself=True,
            ),
        ),
    ),
    Case(
        "write",
        "Write at full speed, all stored at the end",
        write_at_full_speed,
        (
            Metric(
                "records",
                "1/s",
                "higher",
                {"postgres": Target(5.0), "redis": Target(4.0)},
            ),
        ),
    ),
)
