"""How runs end: with their source, in an error, or because of what happens to the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from streamstores import MemoryStreamStore, State, StreamStore
from streamstores.runs.iterator_thread import IteratorThread
from tests.unit.scripted_runs import Reviving, Script, ended, read_to_end, text, until


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
    script = Script().say(*before, RuntimeError("a secret of the server"))
    await (await runs_on()).start("s", script.source())
    end = await ended(store, "s")
    assert (end.state, end.error) == ("error", "The source failed.")
    assert await text(store, "s") == b"".join(before)
    assert "a secret of the server" in caplog.text


@pytest.mark.parametrize(
    ("described", "public"),
    [
        ("no luck", "no luck"),
        ("a\ud800", "a?"),
        ("ü" * 5000, "ü" * 2048),
        (None, "The source failed."),  # not text: the hook itself fails
        (SystemExit, "The source failed."),
        (ZeroDivisionError, "The source failed."),
    ],
)
async def test_followers_are_told_what_describe_error_returns(
    store: StreamStore, runs_on: Any, described: Any, public: str
) -> None:
    def describe_error(exc: Exception) -> Any:
        if isinstance(described, type):
            raise described
        return described

    runs = await runs_on(describe_error=describe_error)
    await runs.start("s", Script().say(RuntimeError()).source())
    assert (await ended(store, "s")).error == public


class ModelsOwn(BaseException):
    """Not an `Exception`: an `except Exception` does not see it."""


ANYTHING = [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, ModelsOwn]


@pytest.mark.parametrize("error", ANYTHING)
async def test_a_source_that_raises_anything_ends_in_an_error_at_once(
    store: StreamStore, runs_on: Any, error: type[BaseException]
) -> None:
    """The process and its other runs go on, and no reader calls the source again."""

    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise error

    other, reviving = Script(), Reviving()
    runs = await runs_on(heartbeat=600.0, revive=reviving)
    await runs.start("other", other.source())
    await runs.start("s", source())
    assert await read_to_end(runs, "s") == (b"a", State.ERROR)
    assert (await store.info("s")).error == "The source failed."
    other.say(b"b", None)
    assert await read_to_end(runs, "other") == (b"b", State.DONE)
    assert not reviving.calls


@pytest.mark.parametrize("error", ANYTHING)
async def test_a_source_may_raise_anything_while_it_is_closed(
    store: StreamStore, runs_on: Any, error: type[BaseException]
) -> None:
    is_closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            is_closed.set()
            raise error

    runs = await runs_on()
    await runs.start("s", source())
    await until(store, "s", lambda info: info.tail == 1)
    await store.mark_done("s")
    await is_closed.wait()
    while runs.is_running("s"):
        await asyncio.sleep(0)


async def test_a_source_that_cannot_be_closed_is_left_behind(
    store: StreamStore, runs_on: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("streamstores.runs.run.CLOSE_SECONDS", 0.01)
    may_end = asyncio.Event()

    class Stuck:
        def __aiter__(self) -> Stuck:
            return self

        async def __anext__(self) -> bytes:
            while not may_end.is_set():
                with suppress(asyncio.CancelledError):
                    await may_end.wait()
            raise StopAsyncIteration

    runs = await runs_on()
    await runs.start("s", Stuck())
    await runs.aclose()
    assert not runs.is_running("s")
    assert "left behind" in caplog.text
    assert (await store.info("s")).state == "stopped"
    may_end.set()


@pytest.mark.parametrize("record", ["text", {"text": "a"}, None, 7])
async def test_a_source_that_yields_no_bytes_ends_in_an_error_that_says_so(
    store: StreamStore, runs_on: Any, record: Any, caplog: Any
) -> None:
    async def source() -> AsyncIterator[Any]:
        yield b"a"
        yield record

    await (await runs_on()).start("s", source())
    end = await ended(store, "s")
    assert (end.state, end.tail) == ("error", 1)
    assert f"a source yields bytes, not {type(record).__name__}" in caplog.text


async def test_a_buffer_that_its_source_uses_again_is_copied(
    store: StreamStore, runs_on: Any
) -> None:
    async def source() -> AsyncIterator[Any]:
        buffer = bytearray(b"a")
        for letter in b"abc":
            buffer[0] = letter
            yield buffer

    await (await runs_on()).start("s", source())
    assert (await ended(store, "s")).state == "done"
    assert await text(store, "s") == b"abc"


@pytest.mark.parametrize("source", [None, [b"a"], "text"])
async def test_a_source_that_cannot_be_iterated_ends_in_an_error(
    store: StreamStore, runs_on: Any, source: Any
) -> None:
    await (await runs_on()).start("s", source)
    assert (await ended(store, "s")).state == "error"


async def test_a_deleted_stream_ends_its_source(store: StreamStore, runs_on: Any) -> None:
    script = Script()
    await (await runs_on()).start("s", script.source())
    script.say(b"a")
    await until(store, "s", lambda info: info.tail == 1)
    await store.delete("s")
    await script.is_closed.wait()


async def test_a_stream_that_is_ended_from_outside_ends_its_source(
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


async def test_the_reprs_of_runs_and_their_followers_name_their_stream(runs_on: Any) -> None:
    store = MemoryStreamStore()
    runs = await runs_on(store, max_runs=7)
    info = await runs.start("answer", Script().source())
    assert repr(runs) == f"<Runs on {store!r}: 1 of 7>"
    assert repr(runs._runs["answer"]) == f"<Run of 'answer' on {store!r}: producing>"
    follower = await runs.follow(info, 0)
    assert repr(follower) == f"<RunFollower of 'answer' on {store!r} at 0>"
    await follower.aclose()


@pytest.mark.parametrize("error", [*ANYTHING, StopIteration, StopAsyncIteration, ValueError])
async def test_a_plain_iterator_that_raises_anything_ends_in_an_error(
    store: StreamStore, runs_on: Any, error: type[BaseException]
) -> None:
    """It runs in a thread of its own."""

    class Raising:
        def __iter__(self) -> Raising:
            self.steps = iter([b"a"])
            return self

        def __next__(self) -> bytes:
            for step in self.steps:
                return step
            raise error

    runs = await runs_on(heartbeat=600.0)
    await runs.start("s", IteratorThread(Raising()))
    expected = State.DONE if error is StopIteration else State.ERROR
    assert await read_to_end(runs, "s") == (b"a", expected)
