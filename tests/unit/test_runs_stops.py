"""Stopping runs and going on with them, in this process and in others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import (
    Limits,
    MemoryStreamStore,
    OutcomeUnknown,
    State,
    StoreUnavailable,
    StreamNotFound,
    StreamStore,
)
from streamstores.runs import OWNER
from streamstores.runs.run import Phase
from tests.unit.scripted_runs import HEARTBEAT, Reviving, Script, ended, read_to_end, until
from tests.wrapping import Wrapping


@pytest.mark.parametrize("process", ["same", "other"])
async def test_a_stop_saves_and_halts_and_a_resume_goes_on(
    store: StreamStore, runs_on: Any, process: str
) -> None:
    runs = await runs_on()
    other = runs if process == "same" else await runs_on()
    script = Script().say(b"a", b"b")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 2)
    assert (await other.stop("s")).state == "stopped"
    script.say(b"c", b"d", None)
    assert (await store.info("s")).tail == 2
    await other.resume("s")
    assert await read_to_end(other, "s") == (b"abcd", State.DONE)


async def test_a_stop_stores_the_chunks_already_yielded(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    script = Script()
    await runs.start("s", script.source())
    script.say(b"a", b"b")
    while script.steps < 2:
        await asyncio.sleep(0)
    info = await runs.stop("s")
    assert (info.state, info.tail) == ("stopped", 2)


async def test_stopped_and_resumed_again_and_again_nothing_is_lost_or_doubled(
    store: StreamStore, runs_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine an owner may be slow; one that is too late leaves the stream stopped.
    monkeypatch.setattr("streamstores.runs.ownership.ANSWER_SECONDS", 60.0)
    processes = [await runs_on(), await runs_on(), await runs_on()]
    expected = [b"%d," % number for number in range(300)]
    script = Script()
    await processes[0].start("s", script.source())
    for number, line in enumerate(expected):
        script.say(line)
        if number % 10 == 0:
            await processes[number // 10 % 3].stop("s")
            await processes[number // 10 % 2].resume("s")
            await until(store, "s", lambda info: info.state == "streaming")
        await asyncio.sleep(0)
    script.say(None)
    assert await read_to_end(processes[1], "s") == (b"".join(expected), State.DONE)


async def test_a_stop_is_idempotent_and_leaves_final_states_alone(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    await runs.start("s", Script().source())
    assert (await runs.stop("s")).state == "stopped"
    assert (await runs.stop("s")).state == "stopped"
    await store.create("done", b"x", state="done")
    assert (await runs.stop("done")).state == "done"
    with pytest.raises(StreamNotFound):
        await runs.stop("never")


async def test_a_source_that_ends_while_stopped_ends_when_resumed(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    script = Script().say(b"a")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    script.say(None)
    await asyncio.sleep(0)
    assert (await store.info("s")).state == "stopped"
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"a", State.DONE)


async def test_a_paused_source_is_closed_when_its_time_is_up(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on(pause_for=0.01)
    script = Script().say(b"a")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    await script.is_closed.wait()
    assert (await runs.resume("s")).state == "stopped"
    assert await read_to_end(runs, "s") == (b"a", State.STOPPED)


async def test_a_revived_source_goes_on_if_the_paused_one_is_gone(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    runs = await runs_on(pause_for=0, revive=reviving)
    script = Script().say(b"a")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    await script.is_closed.wait()
    while runs.is_running("s"):
        await asyncio.sleep(0)
    reviving.script("s").say(b"b", None)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)
    assert reviving.calls["s"] == 1


async def test_racing_resumes_continue_once(store: StreamStore, runs_on: Any) -> None:
    reviving = Reviving()
    processes = [await runs_on(revive=reviving) for _ in range(4)]
    await store.create("s", b"a", attributes={OWNER: ""}, state="stopped")
    reviving.script("s").say(b"b", None)
    await asyncio.gather(*(processes[number % 4].resume("s") for number in range(40)))
    texts = await asyncio.gather(*(read_to_end(runs, "s") for runs in processes))
    assert texts == [(b"ab", State.DONE)] * 4
    assert reviving.calls["s"] == 1


async def test_racing_resumes_of_a_held_source_continue_once(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    processes = [await runs_on(revive=reviving) for _ in range(4)]
    script = Script().say(b"a")
    await processes[0].start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await processes[1].stop("s")
    script.say(b"b", None)
    await asyncio.gather(*(processes[number % 4].resume("s") for number in range(40)))
    assert await read_to_end(processes[3], "s") == (b"ab", State.DONE)
    assert reviving.calls["s"] == 0


async def test_an_owner_that_does_not_answer_is_taken_over(
    store: StreamStore, runs_on: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("streamstores.runs.ownership.ANSWER_SECONDS", 0.01)
    reviving = Reviving()
    await store.create("s", b"a", attributes={OWNER: "gone.1"}, state="stopped")
    reviving.script("s").say(b"b", None)
    runs = await runs_on(revive=reviving)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)


class EndsWaitsEarly(Wrapping):
    """Returns from every wait at once, which a store may do."""

    async def wait(self, stream_id: str, **options: Any) -> Any:
        await asyncio.sleep(0)
        return await super().wait(stream_id, **{**options, "timeout": 0.0})


async def test_an_owner_has_its_time_to_answer_even_if_waits_end_early(runs_on: Any) -> None:
    store, reviving = MemoryStreamStore(), Reviving()
    runs = await runs_on(store)
    script = Script().say(b"a")
    reviving.script("s").say(b"again", None)
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    script.say(b"b", None)
    other = await runs_on(EndsWaitsEarly(store), revive=reviving)
    await other.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)
    assert not reviving.calls


async def test_a_stream_that_nothing_continues_stays_stopped(
    store: StreamStore, runs_on: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("streamstores.runs.ownership.ANSWER_SECONDS", 0.01)
    await store.create("s", b"a", attributes={OWNER: "gone.1"}, state="stopped")
    runs = await runs_on()
    assert (await runs.resume("s")).state == "stopped"
    assert await read_to_end(runs, "s") == (b"a", State.STOPPED)


async def test_resuming_a_stream_that_is_not_stopped_changes_nothing(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    for state in ("streaming", "done", "error"):
        info = await store.create(state, b"x", state=state, attributes={OWNER: "o.1"})
        assert await runs.resume(state) == info
    with pytest.raises(StreamNotFound):
        await runs.resume("never")


async def test_a_stream_without_an_owner_is_neither_continued_nor_taken_over(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    runs = await runs_on(revive=reviving)
    await store.create("s", b"a", state="stopped")
    assert (await runs.resume("s")).state == "stopped"
    live = await store.create("live", b"a")
    reading = asyncio.ensure_future(read_to_end(runs, "live"))
    await asyncio.wait([reading], timeout=6 * HEARTBEAT)
    assert await store.info("live") == live
    await store.append("live", b"b", state="done")
    assert await reading == (b"ab", State.DONE)
    assert not reviving.calls


class StopsAfterOne(Wrapping):
    """Is stopped by another client after the first append."""

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        info = await super().append(stream_id, *chunks, **options)
        if chunks and info.tail == len(b"".join(chunks)):
            await self.inner.mark_done(stream_id, "stopped")
        return info


async def test_a_long_record_that_was_stored_in_part_is_completed(runs_on: Any) -> None:
    store = StopsAfterOne(MemoryStreamStore(limits=Limits(record_bytes=4, append_bytes=8)))
    runs = await runs_on(store)
    await runs.start("s", Script().say(b"0123456789abcdef", b"-", None).source())
    assert (await ended(store, "s")).tail == 8
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"0123456789abcdef-", State.DONE)


class WaitsAtGate(Wrapping):
    """Its waits begin when `gate` is set, and raise the errors in `failures` first."""

    def __init__(self, inner: StreamStore) -> None:
        super().__init__(inner)
        self.gate = asyncio.Event()
        self.failures: list[Exception] = []

    async def wait(self, stream_id: str, **options: Any) -> Any:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        return await super().wait(stream_id, **options)


async def test_a_paused_source_is_held_while_the_store_is_away(
    store: StreamStore, runs_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamstores.runs.run.RETRY_SECONDS", 0.01)
    away = WaitsAtGate(store)
    runs = await runs_on(away)
    script = Script().say(b"a")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    while runs._runs["s"].phase is not Phase.PAUSED:
        await asyncio.sleep(0)
    away.failures = [StoreUnavailable("away"), OutcomeUnknown("away")]
    away.gate.set()
    while away.failures:
        await asyncio.sleep(0.01)
    script.say(b"b", None)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)


async def test_a_stop_that_follows_a_reopening_is_not_swallowed(
    store: StreamStore, runs_on: Any
) -> None:
    """The owner has not noticed yet that the stream is streaming again."""
    slow = WaitsAtGate(store)
    runs = await runs_on(slow)
    script = Script().say(b"a")
    await runs.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    await runs.stop("s")
    await store.append("s", state="streaming")
    assert (await runs.stop("s")).state == "stopped"
    assert (await store.info("s")).state == "stopped"
    slow.gate.set()
    script.say(b"b", None)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)
