"""`StreamWriter.write`: what it accepts as a chunk, and which records become of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import (
    InvalidRequest,
    LimitExceeded,
    Limits,
    MemoryStreamStore,
    StreamWriter,
)
from tests.wrapping import Counting


async def records(store: Any) -> list[bytes]:
    return [record.data for record in (await store.read("a")).records]


@pytest.mark.parametrize("chunk", ["text", "", {"text": "a"}, {}, 7, 0, None, [b"a"], []])
async def test_a_chunk_that_is_not_bytes_is_refused(chunk):
    store = MemoryStreamStore()
    await store.create("a")
    writer = StreamWriter(store, "a")
    with pytest.raises(InvalidRequest, match=f"bytes, not {type(chunk).__name__}"):
        await writer.write(chunk)
    await writer.write(b"bytes")
    await writer.aclose("done")
    assert await records(store) == [b"bytes"]


@pytest.mark.parametrize("split", [True, False])
async def test_a_mutable_chunk_is_copied(split):
    store = MemoryStreamStore()
    await store.create("a")
    buffer = bytearray(b"old")
    async with StreamWriter(store, "a", split=split) as writer:
        await writer.write(buffer)
        await writer.write(memoryview(buffer))
        await writer.write(memoryview(bytearray(8)).cast("Q"))
        buffer[:] = b"new"
    assert await records(store) == [b"old", b"old", bytes(8)]


@pytest.mark.parametrize(
    "limits",
    [Limits(record_bytes=4), Limits(record_bytes=9, append_bytes=4)],
)
async def test_a_chunk_over_the_limit_is_split_or_refused_as_the_caller_chose(limits):
    store = MemoryStreamStore(limits=limits)
    await store.create("a")
    async with StreamWriter(store, "a") as writer:
        await writer.write(b"0123456789")
    assert await records(store) == [b"0123", b"4567", b"89"]
    await store.delete("a")
    await store.create("a")
    async with StreamWriter(store, "a", split=False) as writer:
        with pytest.raises(LimitExceeded) as caught:
            await writer.write(b"0123456789")
        await writer.write(b"0123")
        await writer.write(b"")
    assert await records(store) == [b"0123"]
    assert caught.value.value == 10


@pytest.mark.parametrize("split", [True, False])
async def test_a_full_buffer_does_not_linger(split):
    store = Counting(MemoryStreamStore(limits=Limits(linger=600.0)))
    info = await store.create("a")
    writer = StreamWriter(store, "a", info=info, max_buffer_bytes=4, split=split)
    await writer.write(b"0123")
    assert (await store.wait("a", version=info.version, timeout=60)).tail == 4
    await writer.aclose("done")


async def test_the_repr_of_a_writer_names_its_stream():
    store = MemoryStreamStore()
    writer = StreamWriter(store, "answer", info=await store.create("answer"))
    assert repr(writer) == f"<StreamWriter of 'answer' on {store!r}: open>"
    await writer.write(b"text")
    assert repr(writer).endswith(": open, 4 bytes unstored>")
    await writer.aclose("done")
    assert repr(writer).endswith(": closed>")
    failed = StreamWriter(store, "gone")
    await failed.write(b"text")
    await failed.ended()
    await asyncio.sleep(0)
    assert repr(failed).endswith(": ended by StreamNotFound, 4 bytes unstored>")
