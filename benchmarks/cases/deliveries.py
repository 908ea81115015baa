"""Deliveries: how long a record takes to reach its follower, and what many followers cost."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from benchmarks.cases.case import ACROSS_PROCESSES, Case, Metric, Target
from benchmarks.services import Load
from benchmarks.subjects import Subject
from benchmarks.trial import (
    Audience,
    Pace,
    Producers,
    Trial,
    latencies,
    producing_elsewhere,
    producing_here,
)


async def deliver(trial: Trial, *, many: bool) -> dict[str, float]:
    """Producers and followers in one process."""
    pace = _pace(trial, trial.sizes.streams if many else 1)
    async with trial.subject() as subject, producing_here(subject, pace) as producers:
        return await _delivered(subject, producers, pace)


async def deliver_across(trial: Trial, *, many: bool) -> dict[str, float]:
    """Producers in another process; the load of the server comes from both."""
    pace = _pace(trial, trial.sizes.streams if many else 1)
    async with producing_elsewhere(trial, pace) as producers:
        before = await trial.load()
        async with trial.subject() as subject:
            return await _delivered(subject, producers, pace, trial, before)


async def _delivered(
    subject: Subject,
    producers: Producers,
    pace: Pace,
    trial: Trial | None = None,
    alone: Load | None = None,
) -> dict[str, float]:
    """Follow while the producers write. `alone` is the load before the followers came."""
    expected = len(pace.stream_ids) * pace.length
    audience = Audience(subject, pace.stream_ids, stamped=True)
    try:
        await audience.joined()
        idle = await trial.load() if trial else None
        await producers.go()
        await audience.took(expected, pace.length / pace.rate * 3 + 2)
        figures = latencies(audience, expected)
        end = await trial.load() if trial else None
    finally:
        await audience.leave()
    if alone and idle and end:
        figures["connections"] = idle.connections - alone.connections
        figures["operations"] = (end.operations - idle.operations) / expected
    return figures


async def fan_out(trial: Trial, *, many: bool) -> dict[str, float]:
    """The CPU time of the following process.

    The producer is another process if the backend allows it. In memory the producer's own
    cost is included; with many followers it is small.
    """
    followers = trial.sizes.many_followers if many else trial.sizes.followers
    pace = _pace(trial, 1)
    async with _subject_and_producers(trial, pace) as (subject, producers):
        expected = followers * pace.length
        audience = Audience(subject, pace.stream_ids, followers, stamped=False)
        try:
            await audience.joined()
            gc.collect()
            before = time.process_time()
            await producers.go()
            await audience.took(expected, pace.length / pace.rate * 3 + 5)
            used = time.process_time() - before
            count = audience.count
        finally:
            await audience.leave()
        return {"cpu": used / count * 100_000, "delivered": count / expected}


@asynccontextmanager
async def _subject_and_producers(
    trial: Trial, pace: Pace
) -> AsyncIterator[tuple[Subject, Producers]]:
    async with AsyncExitStack() as stack:
        if trial.backend in ACROSS_PROCESSES:
            producers = await stack.enter_async_context(producing_elsewhere(trial, pace))
            subject = await stack.enter_async_context(trial.subject())
        else:
            subject = await stack.enter_async_context(trial.subject())
            producers = await stack.enter_async_context(producing_here(subject, pace))
        yield subject, producers


async def idle_follower(trial: Trial) -> dict[str, float]:
    """The CPU time of a process that follows a silent stream."""
    pace = _pace(trial, 1)
    async with _subject_and_producers(trial, pace) as (subject, _):
        audience = Audience(subject, pace.stream_ids, stamped=False)
        try:
            await audience.joined()
            cpu, started = time.process_time(), time.perf_counter()
            await asyncio.sleep(trial.sizes.idle_seconds)
            used = (time.process_time() - cpu) / (time.perf_counter() - started)
        finally:
            await audience.leave()
        return {"cpu": used * 100}


def _pace(trial: Trial, streams: int) -> Pace:
    ids = [f"s-{number}" for number in range(streams)]
    count = max(2, int(trial.sizes.seconds * trial.sizes.rate))
    return Pace(ids, count, trial.sizes.rate)


_DELIVERED = Metric("delivered", "of all", "higher")
_CONNECTIONS = Metric("connections", "of the followers' process", "lower")
_OPERATIONS = Metric("operations", "a record, with its append", "lower")

CASES = (
    Case(
        "deliver",
        "Delivery in one process, 1 stream at 50/s",
        partial(deliver, many=False),
        (Metric("p50", "ms", "lower"), Metric("p99", "ms", "lower"), _DELIVERED),
    ),
    Case(
        "deliver-many",
        "Delivery in one process, 100 streams at 50/s",
        partial(deliver, many=True),
        (Metric("p50", "ms", "lower"), Metric("p99", "ms", "lower"), _DELIVERED),
        frozenset({"memory", "sqlite", "postgres", "redis"}),
    ),
    Case(
        "deliver-across",
        "Delivery to another process, 1 stream at 50/s",
        partial(deliver_across, many=False),
        (
            Metric(
                "p50",
                "ms",
                "lower",
                {
                    "redis": Target(1.5),
                    "postgres": Target(1.5),
                    "sqlite": Target(15.0, None),
                },
            ),
            Metric("p99", "ms", "lower"),
            _DELIVERED,
            _CONNECTIONS,
            _OPERATIONS,
        ),
        ACROSS_PROCESSES,
    ),
    Case(
        "deliver-across-many",
        "Delivery to another process, 100 streams at 50/s",
        partial(deliver_across, many=True),
        (
            Metric("p50", "ms", "lower"),
            Metric("p99", "ms", "lower", {"redis": Target(1.0)}),
            _DELIVERED._replace(targets={"redis": Target(1.0, None)}),
            _CONNECTIONS._replace(targets={"redis": Target(2, None)}),
            _OPERATIONS,
        ),
        frozenset({"sqlite", "postgres", "redis"}),
    ),
    Case(
        "followers",
        "100 followers of one stream at 50/s",
        partial(fan_out, many=False),
        (
            Metric(
                "cpu",
                "s of CPU for 100,000 deliveries",
                "lower",
                {"memory": Target(1.5), "redis": Target(0.25)},
            ),
            _DELIVERED,
        ),
    ),
    Case(
        "followers-many",
        "1,000 followers of one stream at 50/s",
        partial(fan_out, many=True),
        (Metric("cpu", "s of CPU for 100,000 deliveries", "lower"), _DELIVERED),
        frozenset({"memory", "sqlite", "postgres", "redis"}),
    ),
    Case(
        "idle",
        "A follower of a silent stream",
        idle_follower,
        (Metric("cpu", "% of a core", "lower", {"sqlite": Target(2.0, None)}),),
    ),
)
