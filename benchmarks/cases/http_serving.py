"""HTTP: one stream sent to many clients as server-sent events, and appended to by many."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.trial import Audience, Pace, Trial, latencies, records, stop


async def serve_events(trial: Trial, *, clients: str, rate: str = "rate") -> dict[str, float]:
    """The clients are in this process; CPU time is that of the server alone."""
    count, pace_rate = getattr(trial.sizes, clients), getattr(trial.sizes, rate)
    pace = Pace(["s"], max(2, int(trial.sizes.seconds * pace_rate)), pace_rate)
    async with trial.subject() as opened:
        server: Any = opened
        await server.begin(pace)
        audience = Audience(server, pace.stream_ids, count, stamped=True)
        try:
            await audience.joined()
            return await _measure(server, pace, audience, count * pace.length)
        finally:
            await audience.leave()


async def _measure(
    server: Any, pace: Pace, audience: Audience, expected: int
) -> dict[str, float]:
    before = server.cpu_seconds
    going = asyncio.create_task(server.go(pace))
    try:
        await audience.took(expected, pace.length / pace.rate * 3 + 5)
        used = server.cpu_seconds - before
        return {
            "cpu": used / max(audience.count, 1) * 100_000,
            **latencies(audience, expected),
        }
    finally:
        await stop([going])


async def take_posts(trial: Trial) -> dict[str, float]:
    """Appends by POST to one stream; CPU time is that of the server alone."""
    async with trial.subject() as opened:
        server: Any = opened
        before = server.cpu_seconds
        bodies = records(trial.sizes.posts)
        rate = await server.post_from_many(bodies, _CONNECTIONS)
        used = server.cpu_seconds - before
        return {"posts": rate, "cpu": used / len(bodies) * 1e6}


_CONNECTIONS = 32
_NO_WORSE = Target(1.0, "durable-streams (Node)")

_METRICS = (
    Metric("p50", "ms", "lower", {"http": _NO_WORSE}),
    Metric("p99", "ms", "lower"),
    Metric("cpu", "s of the server's CPU for 100,000 deliveries", "lower", {"http": _NO_WORSE}),
    Metric("delivered", "of all", "higher"),
)

CASES = (
    Case(
        "serve-one",
        "Server-sent events to 1 client at 50/s",
        partial(serve_events, clients="few_clients"),
        _METRICS,
        frozenset({"http"}),
    ),
    Case(
        "serve-many",
        "Server-sent events to 200 clients at 50/s",
        partial(serve_events, clients="many_clients"),
        _METRICS,
        frozenset({"http"}),
    ),
    Case(
        "post",
        "Appends by POST over 32 connections to one stream",
        take_posts,
        (
            Metric("posts", "1/s", "higher"),
            Metric("cpu", "µs of the server's CPU a request", "lower"),
        ),
        frozenset({"http"}),
    ),
    Case(
        "serve-crowd",
        "Server-sent events to 1,000 clients at 10/s",
        partial(serve_events, clients="crowd_clients", rate="crowd_rate"),
        _METRICS,
        frozenset({"http"}),
    ),
)
