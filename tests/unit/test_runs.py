"""Runs: started, stopped, continued, taken over and handed over; two `Runs` on one store are
two processes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from streamstores import (
    Limits,
    MemoryStreamStore,
    OutcomeUnknown,
    SQLiteStreamStore,
    State,
    StoreUnavailable,
    StreamExists,
    StreamInfo,
    StreamNotFound,
    StreamStore,
)
from streamstores.runs import OWNER, Runs, TooManyRuns
from tests.wrapping import Wrapping

HEARTBEAT = 0.05


class Script:
    """A source that yields what the test says, when it says so."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_closed = asyncio.Event()
        self._lines: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *lines: bytes | Exception | None) -> Script:
        """Bytes to yield, an exception to raise, or None to end."""
        for line in lines:
            self._lines.put_nowait(line)
        return self

    async def source(self) -> AsyncIterator[bytes]:
        try:
            while (line := await self._lines.get()) is not None:
                self.steps += 1
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            self.is_closed.set()


class Reviving:
    """Continues every stream with a script of its own, and counts how often."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.calls: Counter[str] = Counter()

    def script(self, stream_id: str) -> Script:
        return self.scripts.setdefault(stream_id, Script())

    def __call__(self, info: StreamInfo) -> AsyncIterator[bytes]:
        return self._source(info)

    async def _source(self, info: StreamInfo) -> AsyncIterator[bytes]:
        self.calls[info.id] += 1
        async for record in self.script(info.id).source():
            yield record


class OneFile:
    """Opens the stores of many processes on one place."""

    def __init__(self, path: Path | None, stack: AsyncExitStack) -> None:
        self._path = path
        self._stack = stack
        self._memory = MemoryStreamStore()

    async def open(self) -> StreamStore:
        store = self._memory if self._path is None else SQLiteStreamStore(self._path)
        return await self._stack.enter_async_context(store)


@pytest.fixture(params=["memory", "sqlite"])
async def place(request: Any, tmp_path: Path) -> AsyncIterator[OneFile]:
    async with AsyncExitStack() as stack:
        yield OneFile(tmp_path / "runs.db" if request.param == "sqlite" else None, stack)


@pytest.fixture
async def store(place: OneFile) -> StreamStore:
    return await place.open()


@pytest.fixture
async def runs_on(place: OneFile) -> AsyncIterator[Callable[..., Awaitable[Runs]]]:
    """Makes the `Runs` of another process, with a store of its own."""
    made: list[Runs] = []

    async def make(on: StreamStore | None = None, **options: Any) -> Runs:
        options = {"heartbeat": HEARTBEAT, **options}
        made.append(Runs(on or await place.open(), **options))
        return made[-1]

    yield make
    for runs in made:
        await runs.aclose()


async def until(store: StreamStore, stream_id: str, is_so: Callable[[StreamInfo], bool]) -> Any:
    info = await store.info(stream_id)
    while not is_so(info):
        info = await store.wait(stream_id, version=info.version, timeout=30.0)
    return info


async def ended(store: StreamStore, stream_id: str) -> StreamInfo:
    info: StreamInfo = await until(store, stream_id, lambda info: info.state != "streaming")
    return info


async def text(store: StreamStore, stream_id: str) -> bytes:
    return b"".join(record.data for record in (await store.read(stream_id)).records)


async def read_to_end(runs: Runs, stream_id: str, offset: int = 0) -> tuple[bytes, State]:
    follower = await runs.follow(await runs.store.info(stream_id), offset)
    data = b""
    while batch := await follower.batch():
        data += b"".join(record.data for record in batch)
    return data, follower.info.state


# --- how a run ends


async def test_a_source_becomes_a_stream(store: StreamStore, runs_on: Any) -> None:
    script = Script().say(b"a", b"bc", None)
    info = await (await runs_on()).start(
        "s", script.source(), ttl=60, attributes={"model": "m"}
    )
    assert (info.state, info.tail, info.ttl) == ("streaming", 0, 60.0)
    end = await ended(store, "s")
    assert (end.state, end.attributes["model"]) == ("done", "m")
    assert [record.data for record in (await store.read("s")).records] == [b"a", b"bc"]
    await script.is_closed.wait()


async def test_the_last_record_and_done_are_one_step(store: StreamStore, runs_on: Any) -> None:
    script = Script()
    first = await (await runs_on()).start("s", script.source())
    script.say(b"a", None)
    assert (await ended(store, "s")).version == first.version + 1


async def test_a_source_may_yield_nothing(store: StreamStore, runs_on: Any) -> None:
    await (await runs_on()).start("s", Script().say(None).source())
    end = await ended(store, "s")
    assert (end.state, end.tail) == ("done", 0)


@pytest.mark.parametrize("before", [(), (b"a",), (b"a", b"b")])
async def test_a_source_that_raises_ends_in_an_error(
    store: StreamStore, runs_on: Any, before: tuple[bytes, ...], caplog: Any
) -> None:
    script = Script().say(*before, RuntimeError("the secret of the house"))
    await (await runs_on()).start("s", script.source())
    end = await ended(store, "s")
    assert (end.state, end.error) == ("error", "The source failed.")
    assert await text(store, "s") == b"".join(before)
    assert "the secret of the house" in caplog.text


@pytest.mark.parametrize(
    ("described", "public"),
    [
        ("no luck", "no luck"),
        ("a\ud800", "a?"),
        ("ü" * 5000, "ü" * 2048),
        (None, "The source failed."),  # not text: the hook itself fails
    ],
)
async def test_what_followers_are_told_is_the_hooks_text(
    store: StreamStore, runs_on: Any, described: Any, public: str
) -> None:
    runs = await runs_on(describe_error=lambda exc: described)
    await runs.start("s", Script().say(RuntimeError()).source())
    assert (await ended(store, "s")).error == public


async def test_a_source_that_cancels_itself_ends_in_an_error(
    store: StreamStore, runs_on: Any
) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise asyncio.CancelledError

    await (await runs_on()).start("s", source())
    end = await ended(store, "s")
    assert (end.state, end.tail) == ("error", 1)


async def test_a_deleted_stream_ends_its_source(store: StreamStore, runs_on: Any) -> None:
    script = Script()
    await (await runs_on()).start("s", script.source())
    script.say(b"a")
    await until(store, "s", lambda info: info.tail == 1)
    await store.delete("s")
    await script.is_closed.wait()


async def test_a_stream_that_others_end_ends_its_source(
    store: StreamStore, runs_on: Any
) -> None:
    script = Script()
    await (await runs_on()).start("s", script.source())
    await store.mark_done("s")
    await script.is_closed.wait()


async def test_a_namesake_of_a_deleted_stream_is_not_written_to(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    old, new = Script(), Script()
    await runs.start("s", old.source())
    await store.delete("s")
    await runs.start("s", new.source())
    old.say(b"old")
    new.say(b"new", None)
    await old.is_closed.wait()
    await ended(store, "s")
    assert await text(store, "s") == b"new"


async def test_a_silent_source_shows_signs_of_life(store: StreamStore, runs_on: Any) -> None:
    first = await (await runs_on()).start("s", Script().source())
    await until(store, "s", lambda info: info.version >= first.version + 3)


# --- starting


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


async def test_a_start_whose_caller_left_still_runs(store: StreamStore, runs_on: Any) -> None:
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


async def test_a_create_in_doubt_of_an_older_stream_is_no_start(runs_on: Any) -> None:
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


# --- stopping and going on


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


async def test_a_stop_stores_what_was_yielded(store: StreamStore, runs_on: Any) -> None:
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
    # However busy the machine: an owner that is too late would leave the stream stopped.
    monkeypatch.setattr("streamstores.runs.ANSWER_SECONDS", 60.0)
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


async def test_stop_is_idempotent_and_leaves_ends_alone(
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


async def test_a_revived_source_goes_on_where_the_paused_one_is_gone(
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
    monkeypatch.setattr("streamstores.runs.ANSWER_SECONDS", 0.01)
    reviving = Reviving()
    await store.create("s", b"a", attributes={OWNER: "gone.1"}, state="stopped")
    reviving.script("s").say(b"b", None)
    runs = await runs_on(revive=reviving)
    await runs.resume("s")
    assert await read_to_end(runs, "s") == (b"ab", State.DONE)


class EndsWaitsEarly(Wrapping):
    """As a store may: a wait need not last."""

    async def wait(self, stream_id: str, **options: Any) -> Any:
        await asyncio.sleep(0)
        return await super().wait(stream_id, **{**options, "timeout": 0.0})


async def test_an_owner_has_its_time_to_answer_though_waits_end_early(runs_on: Any) -> None:
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
    monkeypatch.setattr("streamstores.runs.ANSWER_SECONDS", 0.01)
    await store.create("s", b"a", attributes={OWNER: "gone.1"}, state="stopped")
    runs = await runs_on()
    assert (await runs.resume("s")).state == "stopped"
    assert await read_to_end(runs, "s") == (b"a", State.STOPPED)


async def test_resuming_what_is_not_stopped_changes_nothing(
    store: StreamStore, runs_on: Any
) -> None:
    runs = await runs_on()
    for state in ("streaming", "done", "error"):
        info = await store.create(state, b"x", state=state, attributes={OWNER: "o.1"})
        assert await runs.resume(state) == info
    with pytest.raises(StreamNotFound):
        await runs.resume("never")


async def test_somebody_elses_stream_is_neither_continued_nor_taken_over(
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
    """Is stopped by somebody after the first append."""

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


# --- producers that die


async def abandon(runs: Runs, stream_id: str) -> None:
    """End a run as the end of its process would: nothing is said to the store."""
    run = runs._runs[stream_id]
    writer = run._writer
    writer._task.cancel()  # type: ignore[union-attr]  # started with its run
    run.task.cancel()
    await asyncio.wait([run.task])


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


async def test_a_dead_producer_without_successor_leaves_a_stopped_stream(
    store: StreamStore, runs_on: Any
) -> None:
    dying, other = await runs_on(), await runs_on()
    await dying.start("s", Script().say(b"a").source())
    await until(store, "s", lambda info: info.tail == 1)
    readers = [asyncio.ensure_future(read_to_end(other, "s")) for _ in range(5)]
    await abandon(dying, "s")
    assert await asyncio.gather(*readers) == [(b"a", State.STOPPED)] * 5


class Cut(Wrapping):
    """A store that one process cannot reach while `is_cut`."""

    is_cut = False

    def __getattribute__(self, name: str) -> Any:
        if name in ("append", "read", "info", "wait") and self.is_cut:
            return _unavailable
        return super().__getattribute__(name)


async def _unavailable(*args: Any, **options: Any) -> Any:
    raise StoreUnavailable("cut off")


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
    """A follower elsewhere takes it for dead and stops the stream; Continue reaches it."""
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
    while slow._runs["s"]._open.is_set():
        await asyncio.sleep(0.01)
    await other.resume("s")
    assert await read_to_end(other, "s") == (b"abc", State.DONE)


# --- handing over


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
    """Not after three heartbeats, which here are longer than a test may take."""
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


async def test_a_closing_process_stops_what_nothing_can_continue(
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


async def test_nothing_is_left_when_all_is_closed(store: StreamStore, runs_on: Any) -> None:
    runs = await runs_on(store)
    for number in range(5):
        await runs.start(f"s{number}", Script().say(b"a").source())
    await runs.stop("s0")
    await runs.aclose()
    await asyncio.sleep(0)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert [name for name in names if re.search(r" s[0-4]$", name)] == []
