"""Reading for a client that may be slow: exact, and in pages of bounded memory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamstores import MemoryStreamStore, Record, StreamInfo, StreamNotFound, follow
from streamstores.http._asgi import bounded_reader
from streamstores.http._asgi.bounded_reader import PAGE_MEMORY, BoundedReader


class Counting(MemoryStreamStore):
    reads = 0

    async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Any:
        self.reads += 1
        return await super().read(stream_id, offset, **options)


@pytest.fixture
async def store() -> AsyncIterator[Counting]:
    async with Counting() as store:
        yield store


def reader_of(store: Counting, info: StreamInfo, offset: int = 0) -> BoundedReader:
    async def follow_it(info: StreamInfo, offset: int) -> Any:
        return follow(store, info.id, offset)

    return BoundedReader(store, info, offset, follow_it)


def memory_of(records: list[Record]) -> int:
    return sum(map(sys.getsizeof, records)) + sum(sys.getsizeof(each.data) for each in records)


async def rest_of(reader: BoundedReader) -> list[list[Record]]:
    batches = []
    while batch := await reader.batch():
        batches.append(batch)
    return batches


@pytest.mark.parametrize("size", [5, 40, 1000, 65_536, 1_048_576])
async def test_a_batch_takes_a_bounded_amount_of_memory(store: Counting, size: int) -> None:
    info = await store.create("s")
    count = min(40_000, 3_000_000 // size)
    for start in range(0, count, 2):
        info = await store.append("s", *[b"x" * size] * min(2, count - start))
    info = await store.mark_done("s")
    batches = await rest_of(reader_of(store, info))
    assert sum(len(batch) for batch in batches) == count
    most = max(2 * PAGE_MEMORY, size + 1000)
    assert max(map(memory_of, batches)) <= most


@pytest.mark.parametrize("offset", [0, 1, 7, 50_000, 91_807, 91_808, 91_809, 99_999, 100_000])
async def test_every_byte_comes_once_from_any_offset(store: Counting, offset: int) -> None:
    data = bytes(range(256)) * 391
    data = data[:100_000]
    info = await store.create("s", *[data[n : n + 7] for n in range(0, 50_000, 7)])
    info = await store.append("s", *[data[n : n + 7] for n in range(info.tail, 100_000, 7)])
    assert info.tail == 100_000
    reader = reader_of(store, info, offset)
    received = b""
    while len(received) < 100_000 - offset:
        received += b"".join(record.data for record in await reader.batch())
    assert received == data[offset:]
    await store.append("s", b"live")
    assert [record.data for record in await reader.batch()] == [b"live"]
    await store.mark_done("s")
    assert await reader.batch() == []
    assert reader.info.state == "done"


async def test_a_client_that_was_slow_reads_small_pages_again(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_reader, "_SLOW_SECONDS", -1.0)
    info = await store.create("s", b"first")
    reader = reader_of(store, info)
    assert [record.data for record in await reader.batch()] == [b"first"]
    for _ in range(100):
        await store.append("s", *[b"x" * 40] * 100)
    await store.mark_done("s")
    batches = await rest_of(reader)
    assert sum(len(batch) for batch in batches) == 10_000
    assert max(map(memory_of, batches)) <= 2 * PAGE_MEMORY
    assert reader.info.state == "done"


async def test_a_short_answer_costs_one_read_and_an_empty_rest_none(store: Counting) -> None:
    info = await store.create("s", b"answer", state="done")
    assert len(await rest_of(reader_of(store, info))) == 1
    assert store.reads == 1
    assert await rest_of(reader_of(store, info, 6)) == []
    assert store.reads == 1


@pytest.mark.parametrize("length", [5, 200_000])
async def test_a_namesake_is_not_read(store: Counting, length: int) -> None:
    info = await store.create("s", b"x" * 100_000)
    reader = reader_of(store, info)
    await reader.batch()
    reader = reader_of(store, info, 1000)
    await store.delete("s")
    await store.create("s", b"y" * length)
    with pytest.raises(StreamNotFound):
        await reader.batch()
