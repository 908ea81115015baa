"""How runs end: with their source, in an error, or because of what happens to the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamstores import (
    StreamStore,
)
from tests.unit.scripted_runs import (
    Script,
    ended,
    text,
    until,
)


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
    ],
)
async def test_followers_are_told_what_describe_error_returns(
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
