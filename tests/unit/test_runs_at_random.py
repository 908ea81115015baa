"""Runs under a random series of stops, resumes, deaths and restarts.

Whatever happens, every reader reads the same text, and nothing in it is lost or doubled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest

from streamstores import State, StoreUnavailable, StreamInfo, StreamStore, open_store
from streamstores.runs import Runs
from tests.services import postgres, redis

COUNT = 400
WHOLE = b"".join(b"%d " % number for number in range(COUNT))


class Process:
    """A `Runs` on a store of its own that counts, and can die."""

    def __init__(self, store: StreamStore) -> None:
        self.store = store
        self.runs = self._make_runs()

    def _make_runs(self) -> Runs:
        return Runs(
            self.store,
            revive=self._revive,
            heartbeat=0.02,
            pause_for=0.2,
            max_takeovers=1000,
        )

    def _revive(self, info: StreamInfo) -> AsyncIterator[bytes]:
        return self.count(info)

    async def count(self, info: StreamInfo | None = None) -> AsyncIterator[bytes]:
        """The numbers, beginning with the first that is not in the stream."""
        first = 0 if info is None else await self._next_number(info)
        for number in range(first, COUNT):
            yield b"%d " % number
            if random.random() < 0.2:
                await asyncio.sleep(random.choice([0, 0, 0.001, 0.03]))

    async def _next_number(self, info: StreamInfo) -> int:
        text = b""
        while len(text) < info.tail:
            page = await self.store.read(info.id, len(text))
            text += b"".join(record.data for record in page.records)
        assert WHOLE.startswith(text)
        return len(text.split())

    async def die(self) -> None:
        """End all runs at once, without a word to the store."""
        for run in list(self.runs._held):
            run._leave()
            await run._writer.abort()
            await run._ended.wait()

    async def restart(self) -> None:
        await self.runs.aclose()
        self.runs = self._make_runs()


async def read(process: Process, chance: random.Random) -> None:
    """Read the stream to its end, through connections that are cut at random places."""
    text = b""
    while True:
        info = await process.store.info("s")
        if info.state is State.STOPPED:
            await asyncio.sleep(0.005)
            continue
        with suppress(StoreUnavailable):  # its process restarts
            follower = await process.runs.follow(info, len(text))
            batches = chance.randrange(1, 40)
            while batches and (batch := await follower.batch()):
                text += b"".join(record.data for record in batch)
                batches -= 1
            await follower.aclose()
            assert WHOLE.startswith(text)
            if follower.info.state is State.DONE and len(text) == follower.info.tail:
                assert text == WHOLE
                return


async def disturb(processes: list[Process], chance: random.Random) -> None:
    """Stop, resume, kill and restart at random; then resume the stream until it is done."""
    for _ in range(40):
        process = chance.choice(processes)
        what = chance.choice(["stop", "resume", "resume", "resume", "die", "restart"])
        with suppress(StoreUnavailable):
            if what in ("stop", "resume"):
                await getattr(process.runs, what)("s")
            else:
                await getattr(process, what)()
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02, 0.1]))
    while not (info := await processes[0].store.info("s")).state.is_final:
        if info.state is State.STOPPED:
            await processes[0].runs.resume("s")
        await asyncio.sleep(0.01)
    assert info.state is State.DONE


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "postgres":
            yield stack.enter_context(postgres.fresh_schema(postgres.shared()))
        elif request.param == "redis":
            yield redis.with_own_prefix(redis.shared())
        else:
            yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/s.db"


@pytest.mark.parametrize("seed", range(4))
async def test_every_reader_reads_the_same_text(
    seed: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamstores.runs.ownership.ANSWER_SECONDS", 0.05)
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_store(url))
        processes = []
        for _ in range(3):
            store = first if url == "memory://" else open_store(url)
            await stack.enter_async_context(store)
            processes.append(Process(store))
            stack.push_async_callback(processes[-1].restart)
        await processes[0].runs.start("s", processes[0].count())
        readers = [read(process, chance) for process in processes * 2]
        await asyncio.wait_for(asyncio.gather(*readers, disturb(processes, chance)), 60)
