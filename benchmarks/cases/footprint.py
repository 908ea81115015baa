"""The memory of idle streams and of followers that wait."""

from __future__ import annotations

import gc
import tracemalloc

from benchmarks.cases.case import Case, Metric
from benchmarks.subjects import Subject
from benchmarks.trial import Audience, Trial


async def idle_memory(trial: Trial) -> dict[str, float]:
    """As counted by Python's allocator, without the buffers of C libraries."""
    count = trial.sizes.idle
    async with trial.subject() as subject:
        await _begin(subject, "warm-up")
        tracemalloc.start()
        try:
            before = _allocated()
            ids = [f"s-{number}" for number in range(count)]
            for stream_id in ids:
                await _begin(subject, stream_id)
            streams = _allocated() - before
            audience = Audience(subject, ids, stamped=False)
            try:
                await audience.joined()
                followers = _allocated() - before - streams
            finally:
                await audience.leave()
        finally:
            tracemalloc.stop()
    return {"stream": streams / count / 1024, "follower": followers / count / 1024}


async def _begin(subject: Subject, stream_id: str) -> None:
    await subject.create(stream_id)
    await subject.append_each(stream_id, [b"x"])


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


CASES = (
    Case(
        "memory",
        "Memory of the process for what is idle",
        idle_memory,
        (Metric("stream", "KiB", "lower"), Metric("follower", "KiB", "lower")),
        frozenset({"memory", "sqlite", "postgres", "redis"}),
    ),
)
