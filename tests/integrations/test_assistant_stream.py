"""The store for assistant-stream, with its own resumable context, on every kind of store."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from assistant_stream.resumable import (
    ResumableStreamError,
    create_resumable_stream_context,
)

from streamstores import MemoryStreamStore, State, StreamStore, open_store
from streamstores.integrations.assistant_stream import AssistantStreamStore


@pytest.fixture
async def store(store_url):
    async with open_store(store_url) as store:
        yield store


async def rest_of(stream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def entries(adapter, stream_id="s", cursor=""):
    return [entry async for entry in adapter.read(stream_id, cursor, asyncio.Event())]


def numbers(count, pause=0.0):
    async def make():
        for number in range(count):
            yield b"%d " % number
            await asyncio.sleep(pause)

    return make


def said(count) -> bytes:
    return b"".join(b"%d " % number for number in range(count))


async def test_its_context_runs_joins_late_joins_twice_and_begins_one_producer(store):
    calls = []

    def make():
        calls.append(1)
        return numbers(50, 0.005)()

    contexts = [
        create_resumable_stream_context(store=AssistantStreamStore(store)) for _ in range(3)
    ]
    streams = [await context.run("s", make) for context in contexts]
    texts = [asyncio.ensure_future(rest_of(stream)) for stream in streams]
    late = await contexts[1].resume("s")
    assert await rest_of(late) == said(50)
    assert await asyncio.gather(*texts) == [said(50)] * 3
    assert len(calls) == 1
    assert await contexts[2].status("s") == "done"
    assert await rest_of(await contexts[0].require_resume("s")) == said(50)
    await contexts[0].delete("s")
    assert await contexts[1].resume("s") is None


async def test_a_source_that_raises_is_an_error_to_every_reader(store):
    async def make():
        yield b"1"
        raise ValueError("the model failed")

    context = create_resumable_stream_context(store=AssistantStreamStore(store))
    stream = await context.run("s", make)
    with pytest.raises(RuntimeError, match="the model failed"):
        await rest_of(stream)
    assert await context.status("s") == "error"
    with pytest.raises(RuntimeError, match="the model failed"):
        await rest_of(await context.resume("s"))


async def test_a_cursor_resumes_behind_its_chunk(store):
    adapter = AssistantStreamStore(store)
    assert await adapter.acquire("s") == "producer"
    for chunk in (b"a", b"bc", b"d"):
        await adapter.append("s", chunk)
    await adapter.finalize("s", "done")
    read = await entries(adapter)
    assert [entry.chunk for entry in read] == [b"a", b"bc", b"d"]
    assert [entry.chunk for entry in await entries(adapter, cursor=read[0].cursor)] == [
        b"bc",
        b"d",
    ]
    assert await entries(adapter, cursor=read[-1].cursor) == []


async def test_a_reader_ends_when_its_signal_is_set():
    async with MemoryStreamStore() as store:
        adapter = AssistantStreamStore(store)
        await adapter.acquire("s")
        await adapter.append("s", b"a")
        leave = asyncio.Event()
        read = []
        async for entry in adapter.read("s", "", leave):
            read.append(entry.chunk)
            leave.set()
        assert read == [b"a"]
        await adapter.aclose()


async def test_a_lease_fences_a_zombie_off():
    async with MemoryStreamStore() as store:
        old, new = AssistantStreamStore(store), AssistantStreamStore(store)
        first = await old.acquire_lease("s")
        assert (first.role, await new.acquire("s")) == ("producer", "consumer")
        await old.append("s", b"1", first.lease)
        await old.delete("s")
        second = await new.acquire_lease("s")
        await new.append("s", b"2", second.lease)
        with pytest.raises(ResumableStreamError) as refused:
            await old.append("s", b"3", first.lease)
        assert refused.value.code == "finalized"
        await new.finalize("s", "done", None, second.lease)
        assert [entry.chunk for entry in await entries(old)] == [b"2"]


async def test_a_stop_from_outside_ends_producer_and_readers():
    async with MemoryStreamStore() as store:
        adapter = AssistantStreamStore(store)
        await adapter.acquire("s")
        await adapter.append("s", b"1")
        while (await store.info("assistant-stream/s")).tail == 0:
            await asyncio.sleep(0)
        await store.mark_done("assistant-stream/s", State.STOPPED)
        assert [entry.chunk for entry in await entries(adapter)] == [b"1"]
        with pytest.raises(ResumableStreamError):
            for _ in range(100):  # the writer hears of it with its next append
                await adapter.append("s", b"2")
                await asyncio.sleep(0.01)
        await adapter.finalize("s", "done")
        assert await adapter.status("s") == "done"


async def test_invalid_calls_are_refused_as_by_the_stores_of_assistant_stream():
    async with MemoryStreamStore() as store:
        adapter = AssistantStreamStore(store)
        for call in (adapter.acquire, adapter.status, adapter.delete):
            with pytest.raises(ResumableStreamError) as refused:
                await call("a/b")
            assert refused.value.code == "invalid-id"
        for missing in (adapter.append("s", b"x"), adapter.finalize("s", "done")):
            with pytest.raises(RuntimeError, match="not found"):
                await missing
        with pytest.raises(RuntimeError, match="not found"):
            await entries(adapter)
        await adapter.acquire("s", ttl_ms=60_000)
        assert (await store.info("assistant-stream/s")).ttl == 60
        with pytest.raises(ValueError, match="cursor"):
            await entries(adapter, cursor="x")
        await adapter.delete("s")
        assert await adapter.status("s") == "missing"


async def test_a_reader_of_a_deleted_stream_gets_an_error():
    async with MemoryStreamStore() as store:
        adapter = AssistantStreamStore(store)
        await adapter.acquire("s")
        reading = asyncio.ensure_future(entries(adapter))
        await asyncio.sleep(0)
        await adapter.delete("s")
        with pytest.raises(RuntimeError, match="not found"):
            await asyncio.wait_for(reading, 30)


PRODUCER = """
import asyncio, os, sys
from assistant_stream.resumable import create_resumable_stream_context
from streamstores import open_store
from streamstores.integrations.assistant_stream import AssistantStreamStore

async def make():
    while True:
        yield b"x"
        await asyncio.sleep(0.01)

async def main():
    adapter = AssistantStreamStore(open_store(sys.argv[1]), heartbeat=0.5)
    async for _ in await create_resumable_stream_context(store=adapter).run("s", make):
        print("running", flush=True)

asyncio.run(main())
"""


async def test_readers_of_a_killed_producer_get_an_error_and_do_not_hang(
    store: StreamStore, store_url: str
):
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PRODUCER, store_url),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    assert child.stdout is not None
    await child.stdout.readline()
    adapter = AssistantStreamStore(store, heartbeat=0.5)
    context = create_resumable_stream_context(store=adapter)
    reading = asyncio.ensure_future(rest_of(await context.resume("s")))
    child.send_signal(signal.SIGKILL)
    await child.communicate()
    with pytest.raises(RuntimeError, match="lost"):
        await asyncio.wait_for(reading, 60)
    assert await context.status("s") == "error"
