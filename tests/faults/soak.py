"""A load for minutes or hours, and whether the process that carries it stays as small.

    python -m tests.faults.soak redis --minutes 30 --streams 1000 --rate 5

Producers write streams, which are deleted and replaced after `--life` seconds. Followers, some
of them slow, read them to the end and compare every byte. Beside them small streams are created
whose time comes after a minute. Every few seconds memory, tasks, threads, descriptors, sockets
and the tables inside the store are measured. At the end the least of the last quarter is
compared with the least of the second: a load goes up and down, while what leaks only grows.

Exits with 1 if one of them has grown, if a byte was wrong, or if small streams are left.
`--json FILE` keeps the figures. The store is a URL, or `memory`, `sqlite`, `postgres`, `redis`
or `s3` for a server of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from streamstores import (
    StreamNotFound,
    StreamStoreError,
    StreamWriter,
    follow,
    open_store,
)
from streamstores.store import StreamStore
from tests.faults.measures import holdings, resident_bytes, sockets
from tests.services import postgres, redis, s3

SMALL_TTL_SECONDS = 60.0
SMALL_CREATORS = 32
SLOW_PAUSE_SECONDS = 0.5
SWEEP_SECONDS = 10.0
GONE_SECONDS = 120.0
ALLOWED_GROWTH = {"resident_bytes": (1.10, 20_000_000), "table_entries": (1.25, 1_000)}
"""How much larger the last quarter may be than the second: a factor, and an amount besides."""
USUAL_GROWTH = (1.05, 30)
MEASURES = ("resident_bytes", "tasks", "threads", "descriptors", "sockets", "table_entries")


@dataclass
class Totals:
    """What the load has done."""

    written: int = 0
    delivered: int = 0
    streams_ended: int = 0
    followers_ended: int = 0
    small_created: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count_error(self, exc: Exception) -> None:
        name = type(exc).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


class Load:
    """Producers, followers and small streams on one store, until `stop`."""

    def __init__(self, store: StreamStore, options: argparse.Namespace) -> None:
        self._store = store
        self._options = options
        self._dice = random.Random(options.seed)
        self._living: list[str] = []
        self._is_stopping = asyncio.Event()
        self._prefix = f"soak-{time.time_ns()}/"
        self.totals = Totals()

    async def run(self) -> None:
        """Work until `stop`; everything that was begun is ended by then."""
        options = self._options
        slow = int(options.followers * options.slow_share)
        await asyncio.gather(
            *(self._produce(number) for number in range(options.streams)),
            *(self._follow(number < slow) for number in range(options.followers)),
            *(self._create_small_streams(first) for first in range(SMALL_CREATORS)),
            self._sweep(),
        )

    def stop(self) -> None:
        self._is_stopping.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than the load runs."""
        if seconds > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), seconds)

    async def _produce(self, number: int) -> None:
        # The first streams end at different times, or all would be replaced at once.
        life = self._options.life * self._dice.random()
        await self._pause(self._dice.random())
        generation = 0
        while not self._is_stopping.is_set():
            stream_id = f"{self._prefix}{number}-{generation}"
            generation += 1
            try:
                await self._produce_one(stream_id, life)
            except StreamStoreError as exc:
                self.totals.count_error(exc)
            life = self._options.life
            with suppress(StreamStoreError):
                await self._store.delete(stream_id)

    async def _produce_one(self, stream_id: str, life: float) -> None:
        """Write a stream for `life` seconds, and leave it a while for its followers."""
        await self._store.create(stream_id)
        self._living.append(stream_id)
        period, loop = 1 / self._options.rate, asyncio.get_running_loop()
        begun = due = loop.time()
        try:
            async with StreamWriter(self._store, stream_id) as writer:
                count = 0
                while loop.time() < begun + life and not self._is_stopping.is_set():
                    await writer.write(record(stream_id, count, self._options.record_bytes))
                    self.totals.written += 1
                    count += 1
                    due = max(due + period, loop.time() - 1)
                    await self._pause(due - loop.time())
        finally:
            self._living.remove(stream_id)
        self.totals.streams_ended += 1
        await self._pause(1.0)

    async def _follow(self, is_slow: bool) -> None:
        while not self._is_stopping.is_set():
            if not self._living:
                await self._pause(0.1)
                continue
            stream_id = self._dice.choice(self._living)
            try:
                await self._follow_one(stream_id, is_slow)
            except StreamNotFound:
                pass  # it was deleted before a slow follower had read it
            except StreamStoreError as exc:
                self.totals.count_error(exc)
            self.totals.followers_ended += 1
            # A store in memory never waits, so a follower of what is all there would keep the
            # producers from their turn.
            await asyncio.sleep(0.001)

    async def _follow_one(self, stream_id: str, is_slow: bool) -> None:
        size, count = self._options.record_bytes, 0
        async for each in follow(self._store, stream_id):
            if each.data != record(stream_id, count, size):
                self.totals.wrong.append(f"record {count} of {stream_id}: {each.data[:60]!r}")
            count += 1
            self.totals.delivered += 1
            if is_slow:
                await self._pause(SLOW_PAUSE_SECONDS)
            if self._is_stopping.is_set():
                return

    async def _create_small_streams(self, first: int) -> None:
        """Create every `SMALL_CREATORS`-th of them, all in the first two thirds of the time."""
        loop = asyncio.get_running_loop()
        begun, seconds = loop.time(), self._options.minutes * 60 * 2 / 3
        for number in range(first, self._options.small, SMALL_CREATORS):
            await self._pause(begun + seconds * number / self._options.small - loop.time())
            if self._is_stopping.is_set():
                return
            try:
                await self._store.create(
                    self._small_id(number), b"small", ttl=SMALL_TTL_SECONDS, state="done"
                )
                self.totals.small_created += 1
            except StreamStoreError as exc:
                self.totals.count_error(exc)

    async def _sweep(self) -> None:
        while not self._is_stopping.is_set():
            await self._pause(SWEEP_SECONDS)
            with suppress(StreamStoreError):
                await self._store.sweep(limit=10_000)

    def _small_id(self, number: int) -> str:
        return f"{self._prefix}small-{number}"

    async def small_streams_left(self) -> int:
        """How many small streams still exist when their time is long over."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := [each async for each in self._store.list(f"{self._prefix}small-")]:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        while await self._store.sweep():
            pass
        return len(left)


def record(stream_id: str, number: int, size: int) -> bytes:
    """Differs from every other record, so that a lost, doubled or foreign one is seen."""
    return f"{stream_id}#{number}|".encode().ljust(size, b".")


async def sample_until_the_end(
    store: StreamStore, load: Load, options: argparse.Namespace
) -> list[dict[str, int]]:
    """The measures of each sample, printed as they come."""
    samples: list[dict[str, int]] = []
    begun = time.monotonic()
    while (seconds := time.monotonic() - begun) < options.minutes * 60 or len(samples) < 4:
        await asyncio.sleep(options.every)
        counts = holdings(store)
        tables = sum(value for name, value in counts.items() if "." in name)
        sample = {
            "seconds": round(seconds + options.every),
            "resident_bytes": resident_bytes(),
            **{name: counts[name] for name in ("tasks", "threads", "descriptors")},
            "sockets": sockets(),
            "table_entries": tables,
            "written": load.totals.written,
            "delivered": load.totals.delivered,
        }
        samples.append(sample)
        print(
            f"{sample['seconds']:>6} s  {sample['resident_bytes'] / 1e6:7.1f} MB  "
            + "  ".join(f"{name} {sample[name]}" for name in list(sample)[2:]),
            flush=True,
        )
    return samples


def growth_of(samples: list[dict[str, int]]) -> list[str]:
    """What was always larger in the last quarter than the second allows, in words."""
    quarter = len(samples) // 4
    if not quarter:
        return ["fewer than four samples: run longer, or take them more often"]
    found = []
    for name in (
        "resident_bytes",
        "tasks",
        "threads",
        "descriptors",
        "sockets",
        "table_entries",
    ):
        early = min(each[name] for each in samples[quarter : 2 * quarter])
        late = min(each[name] for each in samples[-quarter:])
        factor, amount = ALLOWED_GROWTH.get(name, USUAL_GROWTH)
        if late > early * factor + amount:
            found.append(f"{name} grew from {early} to {late}")
    return found


@contextmanager
def url_of(name: str) -> Iterator[str]:
    """The URL itself, or that of a server that is started for as long as the context lasts."""
    with ExitStack() as stack:
        if "://" in name:
            yield name
        elif name == "memory":
            yield "memory://"
        elif name == "sqlite":
            yield f"sqlite:///{stack.enter_context(TemporaryDirectory())}/soak.db"
        elif name == "postgres":
            yield stack.enter_context(postgres.postgres())
        elif name == "redis":
            yield stack.enter_context(redis.redis_url())
        else:
            yield stack.enter_context(s3.s3_server()).url()


async def soak(options: argparse.Namespace, url: str) -> int:
    async with open_store(url) as store:
        load = Load(store, options)
        working = asyncio.ensure_future(load.run())
        samples = await sample_until_the_end(store, load, options)
        load.stop()
        await working
        left = await load.small_streams_left() if options.small else 0
    totals = load.totals
    faults = growth_of(samples) + totals.wrong[:10]
    if left:
        faults.append(f"{left} small streams are left")
    seconds = options.minutes * 60
    print(
        f"{totals.written / seconds:.0f} records/s written, {totals.delivered / seconds:.0f} "
        f"delivered; {totals.streams_ended} streams, {totals.followers_ended} followers and "
        f"{totals.small_created} small streams ended; errors: {totals.errors or 'none'}"
    )
    if options.json:
        result = {"options": vars(options), "samples": samples, "totals": asdict(totals)}
        Path(options.json).write_text(json.dumps({**result, "faults": faults}, indent=1))
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


def parser() -> argparse.ArgumentParser:
    given = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    given.add_argument("store", help="a store URL, or the name of a server of the tests")
    given.add_argument("--minutes", type=float, default=30.0)
    given.add_argument("--streams", type=int, default=1000, help="written at the same time")
    given.add_argument("--rate", type=float, default=5.0, help="records a second and stream")
    given.add_argument("--record-bytes", type=int, default=100)
    given.add_argument("--life", type=float, default=60.0, help="seconds until it is replaced")
    given.add_argument("--followers", type=int, default=2000)
    given.add_argument("--slow-share", type=float, default=0.05, help="two records a second")
    given.add_argument("--small", type=int, default=100_000, help="streams that expire")
    given.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--json", help="a file for the figures")
    return given


def main() -> int:
    options = parser().parse_args()
    # Outside of the loop: a server of the tests is started by a loop of its own.
    with url_of(options.store) as url:
        return asyncio.run(soak(options, url))


if __name__ == "__main__":
    sys.exit(main())
