"""`StreamWriter(fenced=False)`: several producers on one stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import (
    InvalidRequest,
    MemoryStreamStore,
    OutcomeUnknown,
    State,
    StreamClosed,
    StreamWriter,
)
from tests.wrapping import Faulty, Wrapping


async def records(store: Any) -> list[bytes]:
    return [record.data for record in (await store.read("a")).records]


class Suspending(Wrapping):
    """Lets other tasks run before each append."""

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        await asyncio.sleep(0)
        return await super().append(stream_id, *chunks, **options)


async def test_several_producers_append_to_one_stream():
    store = Suspending()
    await store.create("a")

    async def produce(name: str) -> None:
        writer = StreamWriter(store, "a", fenced=False)
        for number in range(50):
            await writer.write(f"{name}{number}".encode())
            if number % 7 == 0:
                await asyncio.sleep(0)
        await writer.aclose()

    names = "abcde"
    await asyncio.gather(*map(produce, names))
    written = await records(store)
    assert len(written) == 250
    for name in names:
        own = [record for record in written if record.startswith(name.encode())]
        assert own == [f"{name}{number}".encode() for number in range(50)]


async def test_it_reads_nothing_at_the_start_and_retries_unapplied_appends():
    class Unasked(Faulty):
        async def info(self, stream_id: str) -> Any:
            raise AssertionError("there is nothing to ask")

    store = Unasked("before", "before")
    await store.create("a")
    writer = StreamWriter(store, "a", fenced=False)
    await writer.write(b"text")
    info = await writer.aclose("done")
    assert (info.tail, info.state) == (4, State.DONE)


@pytest.mark.parametrize(("fault", "stored"), [("lost", []), ("landed", [b"text"])])
async def test_an_append_in_doubt_is_given_back_and_not_repeated(fault, stored):
    """Its bytes may be anywhere among those of the other producers."""
    store = Faulty(fault)
    await store.create("a")
    writer = StreamWriter(store, "a", fenced=False)
    await writer.write(b"text")
    with pytest.raises(OutcomeUnknown):
        await writer.flush()
    assert writer.unstored == [b"text"]
    assert await records(store) == stored


@pytest.mark.parametrize("fault", ["lost", "landed"])
async def test_a_heartbeat_in_doubt_is_repeated(fault):
    store = Faulty(fault)
    info = await store.create("a")
    writer = StreamWriter(store, "a", fenced=False, heartbeat=0.01)
    writer.start()
    while store.calls["append"] < 3:
        info = await store.wait("a", version=info.version, timeout=60)
    await writer.write(b"text")
    await writer.aclose("done")
    assert await records(store) == [b"text"]


async def test_an_end_in_doubt_is_not_repeated():
    store = Faulty("landed")
    await store.create("a")
    writer = StreamWriter(store, "a", fenced=False)
    with pytest.raises(OutcomeUnknown):
        await writer.aclose("done")


async def test_a_stop_ends_every_producer():
    store = MemoryStreamStore()
    await store.create("a")
    writers = [StreamWriter(store, "a", fenced=False) for _ in range(3)]
    await writers[0].aclose("stopped")
    for writer in writers[1:]:
        await writer.write(b"late")
        with pytest.raises(StreamClosed):
            await writer.flush()
        with pytest.raises(InvalidRequest):
            writer.continue_from(await store.info("a"))
    assert await records(store) == []
