"""What telemetry costs: `python -m benchmarks.telemetry [rounds]`, about two seconds a round.

In memory, where an append takes about a microsecond, so that every nanosecond shows. Each
round gives every variant a turn, and the table has the median of all rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from streamstores import MemoryStreamStore, StreamStore, StreamWriter, follow, observation
from streamstores.integrations.opentelemetry import instrument, uninstrument

APPENDS = 20_000
LOOKS = 1_000_000

Measure = Callable[[StreamStore], Awaitable[float]]


async def append(store: StreamStore) -> float:
    """Microseconds for each of many appends, one after another."""
    await store.create("s")
    started = time.perf_counter()
    for _ in range(APPENDS):
        await store.append("s", b"a token ")
    return (time.perf_counter() - started) / APPENDS * 1e6


async def deliver(store: StreamStore) -> float:
    """Microseconds for each record from a writer to a live follower."""
    await store.create("s")
    follower = follow(store, "s")
    started = time.perf_counter()
    async with StreamWriter(store, "s") as writer:
        for _ in range(APPENDS // 10):
            await writer.write(b"a token ")
            await follower.__anext__()
    return (time.perf_counter() - started) / (APPENDS // 10) * 1e6


def plain() -> StreamStore:
    return MemoryStreamStore()


def without_provider() -> StreamStore:
    return instrument(MemoryStreamStore())


def uninstrumented() -> StreamStore:
    store = with_sdk()
    uninstrument()
    return store


def with_sdk() -> StreamStore:
    providers: dict[str, Any] = {
        "tracer_provider": TracerProvider(),
        "meter_provider": MeterProvider([InMemoryMetricReader()]),
    }
    return instrument(MemoryStreamStore(), **providers)


VARIANTS = {
    "not instrumented": plain,
    "instrumented, no provider": without_provider,
    "instrumented, then uninstrumented": uninstrumented,
    "instrumented, with the SDK": with_sdk,
}


async def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {
        name: {"append": [], "deliver": []} for name in VARIANTS
    }
    for number in range(rounds):
        names = list(VARIANTS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for what, run in (("append", append), ("deliver", deliver)):
                async with VARIANTS[name]() as store:
                    found[name][what].append(await run(store))
                uninstrument()
    return found


def look() -> float:
    """Nanoseconds for one look at the absent observer, the loop around it taken off."""
    started = time.perf_counter()
    for _ in range(LOOKS):
        if observation.observer is not None:
            raise AssertionError
    between = time.perf_counter()
    for _ in range(LOOKS):
        pass
    ended = time.perf_counter()
    return ((between - started) - (ended - between)) / LOOKS * 1e9


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    found = asyncio.run(measure(rounds))
    print(f"a look at the absent observer: {min(look() for _ in range(5)):.0f} ns")
    print("| | append, µs | ratio | writer to follower, µs | ratio |\n|---|---|---|---|---|")
    first = found["not instrumented"]
    for name, times in found.items():
        cells = []
        for what, values in times.items():
            ratios = [value / base for value, base in zip(values, first[what], strict=True)]
            cells += [
                f"{statistics.median(values):.2f}",
                f"{statistics.median(ratios):.2f}",
            ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
