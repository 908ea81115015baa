"""Exactly one of many simultaneous takeovers of a dead stream succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streamstores import State, StreamInfo, StreamStore, open_store
from streamstores.runs import OWNER, Runs
from tests.wrapping import Wrapping

CANDIDATES = 8


class Meeting:
    """Holds each caller until all have come."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = asyncio.Event()

    async def come(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()
        await self._complete.wait()


class Meets(Wrapping):
    """A store in which claims wait for each other, so that all carry the same version."""

    def __init__(self, inner: StreamStore, meeting: Meeting) -> None:
        super().__init__(inner)
        self._meeting = meeting

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        if options.get("attributes") and options.get("state") is State.STREAMING:
            await self._meeting.come()
        return await super().append(stream_id, *chunks, **options)


class Candidate:
    """A process that would go on with any stream, from a signal on, and counts how often it
    does."""

    def __init__(self, store: StreamStore, name: str, signal: asyncio.Event) -> None:
        self.name = name
        self.generations = 0
        self._signal = signal
        self.runs = Runs(store, revive=self._revive, heartbeat=5.0)

    def _revive(self, info: StreamInfo) -> AsyncIterator[bytes]:
        return self._generate()

    async def _generate(self) -> AsyncIterator[bytes]:
        self.generations += 1
        await self._signal.wait()
        for _ in range(5):
            yield f"[{self.name}]".encode()
            await asyncio.sleep(0)


async def read_to_end(runs: Runs, stream_id: str) -> bytes:
    follower = await runs.follow(await runs.store.info(stream_id), 0)
    data = b""
    while batch := await follower.batch():
        data += b"".join(record.data for record in batch)
    assert follower.info.state is State.DONE
    return data


async def rescue(runs: Runs, dead: StreamInfo) -> None:
    await runs.rescue(dead)


async def follow(runs: Runs, dead: StreamInfo) -> None:
    await (await runs.follow(dead, 0)).aclose()


async def resume(runs: Runs, dead: StreamInfo) -> None:
    await runs.resume(dead.id)


@pytest.mark.parametrize(
    ("take_over", "owner", "state"),
    [
        pytest.param(rescue, "dead.1", State.STREAMING, id="died"),
        pytest.param(follow, "", State.STREAMING, id="handed-over"),
        pytest.param(resume, "", State.STOPPED, id="stopped"),
    ],
)
async def test_exactly_one_of_simultaneous_claims_generates(
    store_url: str, take_over: Any, owner: str, state: State
) -> None:
    meeting = Meeting(CANDIDATES)
    all_have_claimed = asyncio.Event()  # else a late process finds a stream that is done
    async with AsyncExitStack() as stack:
        candidates = []
        for number in range(CANDIDATES):
            store = await stack.enter_async_context(open_store(store_url))
            candidate = Candidate(
                Meets(store, meeting), f"candidate {number}", all_have_claimed
            )
            stack.push_async_callback(candidate.runs.aclose)
            candidates.append(candidate)
        dead = await store.create("s", b"head", attributes={OWNER: owner}, state=state)
        claims = asyncio.gather(*(take_over(each.runs, dead) for each in candidates))
        await asyncio.wait_for(claims, 60)
        all_have_claimed.set()
        texts = await asyncio.gather(*(read_to_end(each.runs, "s") for each in candidates))
        winners = [each for each in candidates if each.generations]
        assert [each.generations for each in winners] == [1]
        assert set(texts) == {b"head" + f"[{winners[0].name}]".encode() * 5}
