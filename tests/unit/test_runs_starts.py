"""Starting runs: races, bounds, cancelled callers, and outcomes that are unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from streamstores import (
    OutcomeUnknown,
    State,
    StreamExists,
    StreamInfo,
    StreamNotFound,
    StreamStore,
)
from streamstores.runs import OWNER, Runs, TooManyRuns
from tests.unit.scripted_runs import Reviving, Script, ended, text
from tests.wrapping import Wrapping


async def test_racing_starts_of_one_id_make_one_run(store: StreamStore, runs_on: Any) -> None:
    processes = [await runs_on(), await runs_on()]
    scripts = [Script().say(b"a", None) for _ in range(20)]
    results = await asyncio.gather(
        *(
            processes[number % 2].start("s", script.source())
            for number, script in enumerate(scripts)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, StreamInfo) for result in results) == 1
    assert sum(isinstance(result, StreamExists) for result in results) == 19
    await ended(store, "s")
    assert sum(script.steps for script in scripts) == 1


async def test_a_run_beyond_max_runs_is_refused(store: StreamStore, runs_on: Any) -> None:
    runs = await runs_on(max_runs=2)
    script = Script()
    await runs.start("a", script.source())
    await runs.start("b", Script().source())
    with pytest.raises(TooManyRuns):
        await runs.start("c", Script().source())
    with pytest.raises(StreamNotFound):
        await store.info("c")
    script.say(None)
    await ended(store, "a")
    await script.is_closed.wait()
    await until_room(runs, "c")


async def test_starts_at_once_fill_all_the_room_there_is(runs_on: Any) -> None:
    """None of them takes the place of two, even for a moment."""
    runs = await runs_on(max_runs=20)
    starts = (runs.start(f"s{number}", Script().source()) for number in range(20))
    await asyncio.gather(*starts)
    with pytest.raises(TooManyRuns):
        await runs.start("one more", Script().source())


async def test_a_resume_that_nothing_continues_takes_no_place_from_a_start(
    runs_on: Any,
) -> None:
    old, new = await runs_on(), await runs_on(max_runs=1)
    ids = [f"s{number}" for number in range(5)]
    for stream_id in ids:
        await old.start(stream_id, Script().source())
    await old.aclose()
    resumes = (new.resume(stream_id) for stream_id in ids)
    *stopped, started = await asyncio.gather(*resumes, new.start("new", Script().source()))
    assert [info.state for info in stopped] == [State.STOPPED] * 5
    assert started.state is State.STREAMING


async def test_a_start_that_fails_and_a_claim_that_is_outrun_give_their_place_back(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    old, new = await runs_on(), await runs_on(max_runs=1, revive=reviving)
    await old.start("taken", Script().source())
    await old.start("left", Script().source())
    for _ in range(2):
        with pytest.raises(StreamExists):
            await new.start("taken", Script().source())
    await old.stop("left")
    await old.aclose()
    info = await store.info("left")
    await store.append("left", state=State.STREAMING)  # so that the claim is too late
    for _ in range(2):
        await new._take_over(info)
    assert not new.is_running("left")
    await new.start("new", Script().source())


async def until_room(runs: Runs, stream_id: str) -> None:
    while True:
        try:
            await runs.start(stream_id, Script().source())
        except TooManyRuns:
            await asyncio.sleep(0)
        else:
            return


async def test_a_start_goes_on_when_its_caller_is_cancelled(
    store: StreamStore, runs_on: Any
) -> None:
    script = Script().say(b"a", None)
    runs = await runs_on()
    start = asyncio.ensure_future(runs.start("s", script.source()))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    while not [info async for info in store.list("s")]:
        await asyncio.sleep(0)
    assert (await ended(store, "s")).tail == 1


class Doubtful(Wrapping):
    """Leaves the outcome of the next creations or claims unknown.

    `doubts` says how, one word for each: `"lost"` does not apply it, `"landed"` does.
    """

    def __init__(self, doubted: str, *doubts: str) -> None:
        super().__init__()
        self.doubted = doubted
        self.doubts = list(doubts)

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return await self._doubt("create", self._create(stream_id, *chunks, **options))

    async def _create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        info = await super().create(stream_id, *chunks, **options)
        self.created_version = info.version
        return info

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        appending = super().append(stream_id, *chunks, **options)
        return await self._doubt("claim" if options.get("attributes") else "append", appending)

    async def _doubt(self, what: str, mutation: Coroutine[Any, Any, Any]) -> Any:
        if what != self.doubted or not self.doubts:
            return await mutation
        if self.doubts.pop(0) == "landed":
            await mutation
        else:
            mutation.close()
        raise OutcomeUnknown("the answer was lost")


DOUBTS = [("landed",), ("lost",), ("lost", "landed"), ("landed", "landed")]


@pytest.mark.parametrize("doubts", DOUBTS)
async def test_a_create_in_doubt_is_settled(runs_on: Any, doubts: Any) -> None:
    store = Doubtful("create", *doubts)
    await store.inner.create("another")
    runs = await runs_on(store)
    started = await runs.start("s", Script().say(b"a", None).source())
    assert started.id == "s"
    assert (await ended(store, "s")).state == "done"
    assert await text(store, "s") == b"a"
    assert not store.doubts


async def test_a_create_in_doubt_that_landed_is_confirmed(runs_on: Any) -> None:
    """A create that no replica has confirmed would be lost by a failover."""
    store = Doubtful("create", "landed")
    runs = await runs_on(store, heartbeat=600.0)
    started = await runs.start("s", Script().source())
    assert started == await store.info("s")
    assert started.version > store.created_version


async def test_an_older_stream_is_not_taken_for_a_create_in_doubt(runs_on: Any) -> None:
    store = Doubtful("create", "lost")
    await store.inner.create("s")
    with pytest.raises(StreamExists):
        await (await runs_on(store)).start("s", Script().source())


@pytest.mark.parametrize("doubts", DOUBTS)
async def test_a_claim_in_doubt_is_settled(runs_on: Any, doubts: Any) -> None:
    store, reviving = Doubtful("claim", *doubts), Reviving()
    runs = await runs_on(store, revive=reviving)
    await store.create("s", b"a", attributes={OWNER: ""}, state="stopped")
    reviving.script("s").say(b"b", None)
    await runs.resume("s")
    assert (await ended(store, "s")).state == "done"
    assert await text(store, "s") == b"ab"
    assert reviving.calls["s"] == 1
    assert not store.doubts
