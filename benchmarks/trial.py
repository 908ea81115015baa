"""A trial: a subject runs a case once, with producers in this process or another."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple, Protocol

from benchmarks.services import Load
from benchmarks.sizes import APPEND_FACTOR, Sizes
from benchmarks.subjects import Subject, load

ROOT = Path(__file__).parents[1]
RECORD_BYTES = 20


class Trial(NamedTuple):
    """What a case is given: a subject to open on an empty namespace, and how much to do."""

    backend: str
    name: str
    url: str
    other_url: str
    """A second namespace."""
    sizes: Sizes
    ask_load: Callable[[], Load | None]

    def subject(self) -> AbstractAsyncContextManager[Subject]:
        return self._opened(self.url)

    def other_subject(self) -> AbstractAsyncContextManager[Subject]:
        return self._opened(self.other_url)

    @asynccontextmanager
    async def _opened(self, url: str) -> AsyncIterator[Subject]:
        subject = load(self.backend, self.name)(url)
        await subject.open()
        try:
            yield subject
        finally:
            await subject.aclose()

    @property
    def appends(self) -> int:
        return max(2, int(self.sizes.appends * APPEND_FACTOR[self.backend]))

    @property
    def written(self) -> int:
        return max(4, int(self.sizes.written * APPEND_FACTOR[self.backend]))

    async def load(self) -> Load | None:
        return await asyncio.to_thread(self.ask_load)


def stamp(at: float | None = None) -> bytes:
    """A record of 20 bytes: the time, on a clock that all processes of a machine share."""
    return b"%020d" % (time.monotonic_ns() if at is None else int(at * 1e9))


async def stamps(count: int, rate: float, delay: float = 0.0) -> AsyncIterator[bytes]:
    """Yield `count` stamps, each at its time.

    A stamp that is asked for too late, because the record before it held the producer up,
    carries the time at which it was due. So a stall shows in every record that it delays.
    """
    start = time.monotonic() + delay
    for number in range(count):
        due = start + number / rate
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        yield stamp(None if wait > 0 else due)


def records(count: int) -> list[bytes]:
    return [b"%020d" % number for number in range(count)]


class Pace(NamedTuple):
    """How streams are produced.

    Each stream begins with a record that its followers wait for. After `go` come `length`
    more at `rate` per second, with the streams out of step.
    """

    stream_ids: list[str]
    length: int
    rate: float


class Producers(Protocol):
    async def go(self) -> None:
        """Begin to write, when all followers are there."""
        ...

    async def wait(self) -> None:
        """Wait until everything is written."""
        ...


class _Here:
    def __init__(self, subject: Subject, pace: Pace) -> None:
        self._subject = subject
        self._pace = pace
        self._go = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for number, stream_id in enumerate(self._pace.stream_ids):
            await self._subject.create(stream_id)
            delay = number / len(self._pace.stream_ids) / self._pace.rate
            produce = self._subject.produce(stream_id, self._source(delay))
            self._tasks.append(asyncio.create_task(produce))
        await asyncio.sleep(0)

    async def _source(self, delay: float) -> AsyncIterator[bytes]:
        yield stamp()
        await self._go.wait()
        async for each in stamps(self._pace.length, self._pace.rate, delay):
            yield each

    async def go(self) -> None:
        self._go.set()

    async def wait(self) -> None:
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        await stop(self._tasks)


class _Elsewhere:
    """Producers in a child process, with which this process talks in lines of text."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def wait(self) -> None:
        await self.hear(b"done")

    async def hear(self, word: bytes) -> None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if line.strip() != word:
            raise RuntimeError(f"the producing process said {line!r}, not {word!r}")


@asynccontextmanager
async def producing_here(subject: Subject, pace: Pace) -> AsyncIterator[Producers]:
    producers = _Here(subject, pace)
    try:
        await producers.start()
        yield producers
    finally:
        await producers.stop()


@asynccontextmanager
async def producing_elsewhere(trial: Trial, pace: Pace) -> AsyncIterator[Producers]:
    """Start a child process that runs `_produce_for_parent`, and end it afterwards."""
    order = json.dumps([trial.backend, trial.name, trial.url, *pace])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.trial", order),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        producers = _Elsewhere(process)
        await producers.hear(b"ready")
        yield producers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The transports of its pipes close in callbacks in the next turns of the loop.
        await asyncio.sleep(0)


class Audience:
    """The followers of streams, `each` followers per stream, and what they received."""

    def __init__(
        self, subject: Subject, stream_ids: Sequence[str], each: int = 1, *, stamped: bool
    ) -> None:
        self.taken: list[list[bytes]] = []
        """The records that each follower received, in order."""
        self.latencies: list[float] = []
        """The seconds from the stamp of each record to its arrival, if `stamped`."""
        self._tasks: list[asyncio.Task[None]] = []
        for stream_id in stream_ids:
            for _ in range(each):
                taken: list[bytes] = []
                self.taken.append(taken)
                take = self._stamping(taken) if stamped else taken.append
                self._tasks.append(asyncio.create_task(subject.follow(stream_id, take)))

    def _stamping(self, taken: list[bytes]) -> Callable[[bytes], None]:
        latencies, clock = self.latencies, time.monotonic_ns

        def take(data: bytes) -> None:
            latencies.append((clock() - int(data)) / 1e9)
            taken.append(data)

        return take

    @property
    def count(self) -> int:
        return sum(map(len, self.taken))

    async def joined(self) -> None:
        """Wait until every follower has its first record, and forget these records."""
        await self._until(lambda: all(self.taken), 60.0)
        for taken in self.taken:
            taken.clear()
        self.latencies.clear()

    async def took(self, count: int, patience: float) -> None:
        """Wait until they have `count` records together, at most `patience` seconds."""
        await self._until(lambda: self.count >= count, patience)

    async def _until(self, holds: Callable[[], bool], patience: float) -> None:
        deadline = time.monotonic() + patience
        while not holds() and time.monotonic() < deadline:
            for task in self._tasks:
                if task.done() and not task.cancelled() and task.exception():
                    task.result()
            await asyncio.sleep(0.02)

    async def leave(self) -> None:
        await stop(self._tasks)


def latencies(audience: Audience, expected: int) -> dict[str, float]:
    """The share of records that arrived, and p50 and p99 in milliseconds."""
    figures = {"delivered": audience.count / expected}
    if len(audience.latencies) > 1:
        percentiles = quantiles(audience.latencies, n=100, method="inclusive")
        figures |= {"p50": percentiles[49] * 1e3, "p99": percentiles[98] * 1e3}
    return figures


async def stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel repeatedly: before Python 3.12 `wait_for` may swallow a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _produce_for_parent(order: str) -> None:
    """The program of the child process: wait for `go`, produce, and wait for the end."""
    backend, name, url, stream_ids, count, rate = json.loads(order)
    trial = Trial(backend, name, url, url, _NO_SIZES, lambda: None)
    async with (
        trial.subject() as subject,
        producing_here(subject, Pace(stream_ids, count, rate)) as producers,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await producers.go()
        await producers.wait()
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # until the parent ends


_NO_SIZES = Sizes(*([0] * len(Sizes._fields)))

if __name__ == "__main__":
    asyncio.run(_produce_for_parent(sys.argv[1]))
