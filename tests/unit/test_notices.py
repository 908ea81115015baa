"""Notices that bring the records of other processes. The tests count a follower's reads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from streamstores import MemoryStreamStore, StreamInfo, StreamNotFound, follow
from streamstores._shared_reader import shared_reader_of
from streamstores.changes import Changes
from streamstores.mutations import records_of
from tests.wrapping import Wrapping


class Elsewhere(Wrapping):
    """A store whose streams are changed by another process.

    It hears of a change only if the test tells it. Its reads can be held back after they have
    looked at the stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.capabilities |= {"changes"}
        self.changes = Changes()
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, *args, **options):
        self.reads += 1
        page = await self.inner.read(*args, **options)
        await self.gate.wait()
        return page

    def tell(self, info: StreamInfo, *chunks: bytes) -> None:
        records = records_of(chunks, info.tail) if chunks else []
        self.changes.appended(
            info.id, info.version, records, info.updated_at, info.ttl, info.expires_at
        )

    @property
    def known(self) -> StreamInfo:
        reader = shared_reader_of(self, "a")
        assert reader is not None
        return reader.info


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Elsewhere]:
    store = Elsewhere()
    await store.create("a", b"0", ttl=60)
    yield store
    await store.aclose()


async def following(store: Elsewhere) -> asyncio.Task[bytes]:
    """A follower that has read all there is, with its shared reader asleep."""
    follower = follow(store, "a")

    async def collect() -> bytes:
        return b"".join([record.data async for record in follower])

    task = asyncio.create_task(collect())
    while not follower._live:
        await asyncio.sleep(0)
    await settled()
    store.reads = 0
    return task


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def ended(store: Elsewhere, task: asyncio.Task[bytes]) -> bytes:
    info = await store.mark_done("a")
    store.changes.noticed("a", info.version)
    return await task


async def test_appends_and_heartbeats_that_notices_bring_cost_no_read(store):
    task = await following(store)
    for number in range(20):
        chunks = [b"%d" % number] * (number % 3)
        store.tell(await store.append("a", *chunks), *chunks)
        assert store.known == await store.info("a")
        await settled()
    assert store.reads == 0
    everything = b"".join([each.data for each in (await store.inner.read("a")).records])
    assert await ended(store, task) == everything
    assert store.reads == 1


async def test_a_notice_that_was_lost_costs_one_read_and_nothing_is_lost_or_doubled(store):
    task = await following(store)
    store.tell(await store.append("a", b"1"), b"1")
    await store.append("a", b"2")
    store.tell(await store.append("a", b"3"), b"3")
    await settled()
    assert store.reads == 1
    store.tell(await store.append("a", b"4"), b"4")
    await settled()
    assert store.reads == 1
    assert await ended(store, task) == b"01234"


async def test_a_change_whose_notice_was_lost_is_found_with_the_next_append(store):
    task = await following(store)
    await store.append("a", attributes={"run": "r2"})
    store.tell(await store.append("a", b"1"), b"1")
    await settled()
    assert (store.reads, store.known) == (1, await store.info("a"))
    assert await ended(store, task) == b"01"


async def test_a_notice_that_comes_again_or_late_changes_nothing(store):
    task = await following(store)
    first = await store.append("a", b"1")
    second = await store.append("a", b"2")
    for info, chunk in ((first, b"1"), (first, b"1"), (second, b"2"), (first, b"1")):
        store.tell(info, chunk)
    await settled()
    assert (store.reads, store.known) == (0, second)
    assert await ended(store, task) == b"012"


async def test_a_read_that_notices_overtake_does_not_take_the_reader_back(store):
    task = await following(store)
    store.gate.clear()
    store.changes.noticed("a")  # the shared reader asks, and is kept waiting
    await settled()
    for chunk in (b"1", b"2"):
        store.tell(await store.append("a", chunk), chunk)
    newest = store.known
    store.gate.set()
    await settled()
    assert (store.reads, store.known) == (1, newest)
    assert await ended(store, task) == b"012"


async def test_notices_of_records_already_read_cost_no_read(store):
    task = await following(store)
    told = [(await store.append("a", chunk), chunk) for chunk in (b"1", b"2", b"3")]
    store.gate.clear()
    store.changes.noticed("a")
    await settled()
    store.tell(*told[0])
    store.gate.set()
    await settled()
    for info, chunk in told[1:]:
        store.tell(info, chunk)
    await settled()
    assert store.reads == 1
    assert await ended(store, task) == b"0123"


async def test_records_that_do_not_begin_at_the_known_tail_are_read_again(store):
    """After a failover that lost an append, its notice may already have been heard."""
    task = await following(store)
    lost = await store.info("a")
    store.tell(lost._replace(tail=9, version=lost.version + 1), b"not there")
    await settled()
    assert store.reads == 1
    assert await ended(store, task) == b"0"


async def test_a_namesake_is_not_taken_for_the_stream(store):
    task = await following(store)
    await store.delete("a")
    await store.create("a", b"0")
    store.tell(await store.append("a", b"1"), b"1")
    with pytest.raises(StreamNotFound):
        await task
    assert store.reads == 1


async def test_a_waiter_is_woken_by_a_notice_that_brings_records():
    store = MemoryStreamStore()
    info = await store.create("a")
    calls: Counter[str] = Counter()

    async def ask(stream_id: str) -> StreamInfo:
        calls["info"] += 1
        return await store.info(stream_id)

    changes = Changes()
    waiting = asyncio.create_task(
        changes.wait(ask, "a", version=info.version, timeout=60, poll_interval=60)
    )
    while not calls["info"]:
        await asyncio.sleep(0)
    after = await store.append("a", b"1")
    changes.appended("a", after.version, records_of((b"1",), 1), after.updated_at, None, None)
    assert await waiting == after
