"""Starting runs: races, bounds, cancelled callers, and outcomes that are unknown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import OutcomeUnknown, StreamExists, StreamInfo, StreamNotFound, StreamStore
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


async def test_no_more_runs_than_allowed(store: StreamStore, runs_on: Any) -> None:
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
    """Loses the answer to the next mutation named in `lose`."""

    lose: str | None = None

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return self._answer("create", await super().create(stream_id, *chunks, **options))

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        info = await super().append(stream_id, *chunks, **options)
        return self._answer("claim" if "attributes" in options else "append", info)

    def _answer(self, what: str, info: Any) -> Any:
        if self.lose == what:
            self.lose = None
            raise OutcomeUnknown("the answer was lost")
        return info


async def test_a_create_in_doubt_is_settled(runs_on: Any) -> None:
    store = Doubtful()
    store.lose = "create"
    await (await runs_on(store)).start("s", Script().say(b"a", None).source())
    assert (await ended(store, "s")).tail == 1


async def test_an_older_stream_is_not_taken_for_a_create_in_doubt(runs_on: Any) -> None:
    class Older(Wrapping):
        async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
            raise OutcomeUnknown("was it created?")

    store = Older()
    await store.inner.create("s")
    with pytest.raises(StreamExists):
        await (await runs_on(store)).start("s", Script().source())


async def test_a_claim_in_doubt_is_settled(runs_on: Any) -> None:
    store, reviving = Doubtful(), Reviving()
    runs = await runs_on(store, revive=reviving)
    await store.create("s", b"a", attributes={OWNER: ""}, state="stopped")
    store.lose = "claim"
    reviving.script("s").say(b"b", None)
    await runs.resume("s")
    assert (await ended(store, "s")).state == "done"
    assert await text(store, "s") == b"ab"
    assert reviving.calls["s"] == 1
