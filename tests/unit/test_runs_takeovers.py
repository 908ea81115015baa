"""Producers that die or close, and the processes that take their streams over."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from streamstores import MemoryStreamStore, State, StoreUnavailable, StreamInfo, StreamStore
from streamstores.runs import OWNER, Runs
from streamstores.runs.run import Phase
from tests.unit.scripted_runs import Cut, Reviving, Script, abandon, read_to_end, until


async def test_a_dead_producer_is_replaced_by_exactly_one(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    dying = await runs_on()
    await dying.start("s", Script().say(b"a").source())
    await until(store, "s", lambda info: info.tail == 1)
    processes = [await runs_on(revive=reviving) for _ in range(5)]
    readers = [asyncio.ensure_future(read_to_end(runs, "s")) for runs in processes * 3]
    await abandon(dying, "s")
    reviving.script("s").say(b"b", None)
    assert await asyncio.gather(*readers) == [(b"ab", State.DONE)] * 15
    assert reviving.calls["s"] == 1


async def test_a_dead_producer_without_a_successor_leaves_a_stopped_stream(
    store: StreamStore, runs_on: Any
) -> None:
    dying, other = await runs_on(), await runs_on()
    await dying.start("s", Script().say(b"a").source())
    await until(store, "s", lambda info: info.tail == 1)
    readers = [asyncio.ensure_future(read_to_end(other, "s")) for _ in range(5)]
    await abandon(dying, "s")
    assert await asyncio.gather(*readers) == [(b"a", State.STOPPED)] * 5


async def test_a_source_that_ends_its_processes_is_not_taken_over_without_limit(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    dying = await runs_on()
    await dying.start("s", Script().say(b"0").source())
    for number in range(3):
        await until(store, "s", lambda info, number=number: info.tail == number + 1)
        await abandon(dying, "s")
        reviving.script("s").say(b"%d" % (number + 1))
        dying = await runs_on(revive=reviving, max_takeovers=3)
        reading = asyncio.ensure_future(read_to_end(dying, "s"))
        await until(store, "s", lambda info, number=number: info.tail == number + 2)
        reading.cancel()
    await abandon(dying, "s")
    last = await runs_on(revive=reviving, max_takeovers=3)
    assert await read_to_end(last, "s") == (b"0123", State.ERROR)
    assert reviving.calls["s"] == 3
    assert (await store.info("s")).error == "The source failed."


async def test_only_deaths_count_as_takeovers(store: StreamStore, runs_on: Any) -> None:
    """A restart hands its streams over, and a user may continue a stream at will."""
    reviving = Reviving()
    options = {"revive": reviving, "max_takeovers": 0, "pause_for": 0}
    await store.create("s", attributes={OWNER: ""}, state="stopped")
    for _ in range(3):
        runs = await runs_on(**options)
        await runs.resume("s")
        await runs.stop("s")
        await runs.resume("s")
        await runs.aclose()
        assert (await store.info("s")).state == "streaming"
        runs = await runs_on(**options)
        await runs.follow(await store.info("s"), 0)
        assert runs.is_running("s")
        await runs.stop("s")
        await runs.aclose()
    reviving.script("s").say(b"a", None)
    runs = await runs_on(**options)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"a", State.DONE)


def test_a_loop_that_ends_without_closing_leaves_its_streams_as_a_death_does() -> None:
    """Whichever task is cancelled first, nothing is written, and nothing holds up the end."""
    store = MemoryStreamStore()
    scripts = [Script(), Script()]

    async def run() -> None:
        runs = Runs(store)
        for stream_id, script in zip(["produced", "paused"], scripts, strict=True):
            await runs.start(stream_id, script.say(b"a").source())
            await until(store, stream_id, lambda info: info.tail == 1)
        await runs.stop("paused")

    asyncio.run(run())
    states = {stream_id: stream.info.state for stream_id, stream in store._streams.items()}
    assert states == {"produced": "streaming", "paused": "stopped"}
    assert all(script.is_closed.is_set() for script in scripts)


async def test_a_zombie_is_fenced_off(store: StreamStore, runs_on: Any) -> None:
    reviving = Reviving()
    cut = Cut(store)
    zombie, other = await runs_on(cut), await runs_on(revive=reviving)
    script = Script().say(b"a")
    await zombie.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    cut.is_cut = True
    script.say(b"Z")
    reviving.script("s").say(b"b")
    reading = asyncio.ensure_future(read_to_end(other, "s"))
    await until(store, "s", lambda info: info.tail == 2)
    cut.is_cut = False
    await script.is_closed.wait()
    reviving.script("s").say(b"c", None)
    assert await reading == (b"abc", State.DONE)


async def test_a_producer_that_was_only_slow_goes_on(store: StreamStore, runs_on: Any) -> None:
    """A follower in another process takes it for dead and stops the stream. A later resume
    reaches it."""
    cut = Cut(store)
    slow, other = await runs_on(cut), await runs_on()
    script = Script().say(b"a")
    await slow.start("s", script.source())
    await until(store, "s", lambda info: info.tail == 1)
    cut.is_cut = True
    script.say(b"b")
    assert await read_to_end(other, "s") == (b"a", State.STOPPED)
    cut.is_cut = False
    script.say(b"c", None)
    while slow._runs["s"].phase is not Phase.PAUSED:
        await asyncio.sleep(0.01)
    await other.resume("s")
    assert await read_to_end(other, "s") == (b"abc", State.DONE)


async def test_a_closing_process_hands_its_streams_over(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    old, new = await runs_on(revive=reviving), await runs_on(revive=reviving)
    script = Script().say(b"a")
    await old.start("s", script.source())
    while script.steps < 1:
        await asyncio.sleep(0)
    await old.aclose()
    await script.is_closed.wait()
    info = await store.info("s")
    assert (info.state, info.tail, info.attributes[OWNER]) == ("streaming", 1, "")
    reviving.script("s").say(b"b", None)
    assert await read_to_end(new, "s") == (b"ab", State.DONE)
    assert reviving.calls["s"] == 1


async def test_readers_elsewhere_take_over_from_a_closing_process_at_once(
    store: StreamStore, runs_on: Any
) -> None:
    """They do not wait for three heartbeats, which are longer here than a test may take."""
    reviving = Reviving()
    patient = {"revive": reviving, "heartbeat": 600.0}
    old, new = await runs_on(**patient), await runs_on(**patient)
    script = Script().say(b"a")
    info = await old.start("s", script.source())
    readers = [await new.follow(info, 0) for _ in range(3)]
    for reader in readers:
        assert [record.data for record in await reader.batch()] == [b"a"]
    waiting = [asyncio.ensure_future(reader.batch()) for reader in readers]
    await asyncio.sleep(0)
    await old.aclose()
    reviving.script("s").say(b"b", None)
    for batch in await asyncio.gather(*waiting):
        assert [record.data for record in batch] == [b"b"]
    assert reviving.calls["s"] == 1


async def test_a_handed_over_stream_that_finds_no_room_is_asked_for_once(
    store: StreamStore, runs_on: Any
) -> None:
    reviving = Reviving()
    patient = {"revive": reviving, "heartbeat": 600.0}
    old, full = await runs_on(**patient), await runs_on(**patient, max_runs=1)
    await full.start("other", Script().source())
    script = Script().say(b"a")
    reader = await full.follow(await old.start("s", script.source()), 0)
    await reader.batch()
    waiting = asyncio.ensure_future(reader.batch())
    await old.aclose()
    info = await until(store, "s", lambda info: info.attributes[OWNER] == "")
    beat = await store.append("s", version=info.version)  # nothing was claimed meanwhile
    assert not waiting.done()
    assert beat.attributes[OWNER] == ""
    waiting.cancel()


async def test_a_closing_process_stops_a_stream_that_nothing_can_continue(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    script = Script().say(b"a")
    await runs.start("s", script.source())
    while script.steps < 1:
        await asyncio.sleep(0)
    await runs.aclose()
    info = await store.info("s")
    assert (info.state, info.tail) == ("stopped", 1)
    with pytest.raises(StoreUnavailable):
        await runs.start("t", Script().source())


async def test_a_closing_process_closes_paused_sources(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    script = Script()
    await runs.start("s", script.source())
    await runs.stop("s")
    await runs.aclose()
    assert script.is_closed.is_set()
    await runs.aclose()


async def test_no_task_is_left_after_closing(store: StreamStore, runs_on: Any) -> None:
    runs = await runs_on(store)
    for number in range(5):
        await runs.start(f"s{number}", Script().say(b"a").source())
    await runs.stop("s0")
    await runs.aclose()
    await asyncio.sleep(0)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert [name for name in names if re.search(r" s[0-4]$", name)] == []


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_a_revive_that_raises_is_a_source_that_failed(
    store: StreamStore, runs_on: Any, error: type[BaseException]
) -> None:
    def revive(info: StreamInfo) -> Any:
        raise error

    runs = await runs_on(revive=revive)
    await store.create("dead", b"a", attributes={OWNER: "gone.1"})
    await store.create("stopped", b"a", attributes={OWNER: ""}, state="stopped")
    assert await read_to_end(runs, "dead") == (b"a", State.ERROR)
    ended = await runs.resume("stopped")
    assert (ended.state, ended.error) == ("error", "The source failed.")
    assert await read_to_end(runs, "stopped") == (b"a", State.ERROR)


async def test_a_revive_that_raises_keeps_no_process_from_closing(
    store: StreamStore, runs_on: Any
) -> None:
    """The streams are handed over: it may be the next version of the program that is right."""

    def revive(info: StreamInfo) -> Any:
        raise SystemExit

    runs = await runs_on(revive=revive)
    scripts = {name: Script() for name in "ab"}
    for name, script in scripts.items():
        await runs.start(name, script.source())
    await runs.aclose()
    for name, script in scripts.items():
        info = await store.info(name)
        assert (info.state, info.attributes[OWNER]) == ("streaming", "")
        assert script.is_closed.is_set()
