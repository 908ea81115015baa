"""`StreamWriter`: batches, back-pressure, fencing, and retries that neither lose nor double."""

from __future__ import annotations

import asyncio

import pytest

from streamstores import (
    Conflict,
    InvalidRequest,
    LimitExceeded,
    Limits,
    MemoryStreamStore,
    State,
    StreamClosed,
    StreamNotFound,
    StreamWriter,
)
from tests.wrapping import Counting


async def content(store, stream_id="a") -> bytes:
    page = await store.read(stream_id, max_bytes=10**9)
    return b"".join(record.data for record in page.records)


class Gated(Counting):
    """Holds back every append until `gate` is set."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def append(self, stream_id, *chunks, **options):
        self.entered.set()
        await self.gate.wait()
        return await super().append(stream_id, *chunks, **options)

    async def mark_done_by_another(self, stream_id):
        return await self.inner.mark_done(stream_id, "stopped")


async def test_chunks_written_while_an_append_is_in_flight_go_out_as_one_append():
    store = Gated()
    await store.create("a")
    writer = StreamWriter(store, "a")
    await writer.write(b"first")
    await store.entered.wait()
    for _ in range(100):
        await writer.write(b"x")
    store.gate.set()
    await writer.flush()
    assert store.calls["append"] == 2
    page = await store.read("a")
    assert [len(record.data) for record in page.records] == [5] + [1] * 100
    await writer.aclose()


async def test_a_full_buffer_makes_write_wait_until_the_store_has_taken_some():
    store = Gated()
    await store.create("a")
    writer = StreamWriter(store, "a", max_buffer_bytes=10)
    await writer.write(b"first")
    await store.entered.wait()
    await writer.write(b"0123456789")
    blocked = asyncio.create_task(writer.write(b"more"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not blocked.done()
    store.gate.set()
    await blocked
    await writer.aclose("done")
    assert await content(store) == b"first0123456789more"


async def test_a_cancelled_write_has_accepted_nothing():
    store = Gated()
    await store.create("a")
    writer = StreamWriter(store, "a", max_buffer_bytes=10)
    await writer.write(b"first")
    await store.entered.wait()
    await writer.write(b"0123456789")
    blocked = asyncio.create_task(writer.write(b"cancelled"))
    await asyncio.sleep(0)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert writer.unstored == [b"first", b"0123456789"]
    store.gate.set()
    await writer.aclose("done")
    assert await content(store) == b"first0123456789"


async def test_a_failed_writer_gives_back_the_chunks_not_stored():
    store = Gated()
    await store.create("a")
    writer = StreamWriter(store, "a")
    await writer.write(b"in flight")
    await store.entered.wait()
    await writer.write(b"waiting")
    stopped = await store.mark_done_by_another("a")
    store.gate.set()
    error = await writer.ended()
    assert isinstance(error, StreamClosed)
    assert error.info == stopped
    assert writer.unstored == [b"in flight", b"waiting"]


async def test_a_writer_goes_on_where_another_was_stopped():
    limits = Limits(record_bytes=4, append_bytes=4)
    store = MemoryStreamStore(limits=limits)
    first = StreamWriter(store, "a", info=await store.create("a"))
    await first.write(b"0123456789")
    await store.append("a", b"0123")  # as if it had landed and its answer was lost
    await store.mark_done("a", "stopped")
    assert isinstance(await first.ended(), (Conflict, StreamClosed))
    reopened = await store.append("a", state="streaming")
    second = first.continue_from(reopened)
    assert second.unstored == [b"4567", b"89"]
    await second.aclose("done")
    assert await content(store) == b"0123456789"


@pytest.mark.parametrize("appended", [b"", b"longer than what was written"])
async def test_a_writer_does_not_go_on_after_anothers_bytes(appended):
    store = MemoryStreamStore()
    writer = StreamWriter(store, "a", info=await store.create("a"))
    await writer.write(b"mine")
    await writer.flush()
    await writer.write(b"more")
    namesake = await store.create("b", *([appended] if appended else []))
    with pytest.raises(InvalidRequest):
        writer.continue_from(namesake)
    await store.mark_done("a", "stopped")
    await writer.abort()
    with pytest.raises(Conflict):
        writer.continue_from(namesake)


async def test_the_end_is_told_without_a_flush():
    store = MemoryStreamStore()
    closed = StreamWriter(store, "a", info=await store.create("a"))
    end, cancelled = closed.ended(), closed.ended()
    cancelled.cancel()
    assert not end.done()
    await closed.aclose("done")
    assert await end is None
    assert await closed.ended() is None
    failed = StreamWriter(store, "a", info=await store.info("a"), heartbeat=0.01)
    failed.start()
    assert isinstance(await failed.ended(), StreamClosed)
    idle = StreamWriter(store, "a")
    await idle.aclose()
    assert await idle.ended() is None


async def test_a_producer_learns_of_the_end_before_the_caller_that_closes():
    """Otherwise that caller could ask the producer for a stream that it no longer writes."""
    async with MemoryStreamStore() as store:
        await store.create("s")
        writer = StreamWriter(store, "s")
        told = []
        for number in range(20):
            writer.ended().add_done_callback(lambda _, number=number: told.append(number))
        await writer.write(b"text")
        await writer.aclose("stopped")
        assert told == list(range(20))


async def test_the_last_word_and_the_state_are_one_append():
    store = Counting()
    await store.create("a")
    writer = StreamWriter(store, "a", info=await store.info("a"))
    await writer.write(b"last")
    info = await writer.aclose("done", attributes={"tokens": "1"})
    assert store.calls["append"] == 1
    assert (info.state, info.tail, info.attributes) == (State.DONE, 4, {"tokens": "1"})


async def test_closing_without_a_state_changes_nothing_more():
    store = Counting()
    before = await store.create("a")
    writer = StreamWriter(store, "a")
    assert await writer.aclose() is None
    writer = StreamWriter(store, "a")
    await writer.write(b"x")
    assert (await writer.aclose()).state is State.STREAMING
    assert (await store.info("a")).version == before.version + 1


async def test_a_stop_ends_it_with_stream_closed_and_a_takeover_with_conflict():
    store = MemoryStreamStore()
    info = await store.create("a")
    writer = StreamWriter(store, "a", info=info)
    await store.mark_done("a", "stopped")
    await writer.write(b"x")
    with pytest.raises(StreamClosed):
        await writer.flush()
    await store.append("a", state="streaming")
    zombie = StreamWriter(store, "a", info=info)
    await zombie.write(b"x")
    with pytest.raises(Conflict):
        await zombie.flush()
    assert (await store.info("a")).tail == 0


async def test_a_silent_writer_shows_signs_of_life():
    store = MemoryStreamStore()
    info = await store.create("a")
    writer = StreamWriter(store, "a", heartbeat=0.01)
    writer.start()
    seen = await store.wait("a", version=info.version, timeout=10)
    seen = await store.wait("a", version=seen.version, timeout=10)
    assert seen.version >= info.version + 2
    assert seen.tail == 0
    await writer.aclose("done")


async def test_linger_gathers_and_flush_does_not_wait_for_it():
    store = Counting(MemoryStreamStore(limits=Limits(linger=60.0)))
    await store.create("a")
    writer = StreamWriter(store, "a")
    for _ in range(10):
        await writer.write(b"x")
        await asyncio.sleep(0)
    assert store.calls["append"] == 0
    await asyncio.wait_for(writer.flush(), 30)
    assert store.calls["append"] == 1
    await writer.write(b"y")
    await asyncio.wait_for(writer.aclose("done"), 30)
    assert await content(store) == b"x" * 10 + b"y"


async def test_more_than_one_append_may_hold_goes_out_as_several():
    limits = Limits(record_bytes=10, append_bytes=25, append_records=4)
    store = Counting(MemoryStreamStore(limits=limits))
    await store.create("a")
    async with StreamWriter(store, "a") as writer:
        await writer.write(b"0123456789" * 10 + b"end")
        for _ in range(20):
            await writer.write(b"x")
        await writer.write(b"")
    assert await content(store) == b"0123456789" * 10 + b"end" + b"x" * 20
    page = await store.read("a")
    assert max(len(record.data) for record in page.records) == 10


async def test_the_block_decides_how_the_stream_ends():
    store = MemoryStreamStore()
    for stream_id in ("done", "error", "stopped"):
        await store.create(stream_id)
    async with StreamWriter(store, "done") as writer:
        await writer.write(b"x")
    with pytest.raises(ZeroDivisionError):
        async with StreamWriter(store, "error") as writer:
            await writer.write(b"x")
            raise ZeroDivisionError("too near " + "é" * 10_000)

    has_written = asyncio.Event()

    async def produce() -> None:
        async with StreamWriter(store, "stopped") as writer:
            await writer.write(b"x")
            has_written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(produce())
    await has_written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for stream_id in ("done", "error", "stopped"):
        info = await store.info(stream_id)
        assert (info.state, info.tail) == (State(stream_id), 1)
    error = (await store.info("error")).error
    assert error.startswith("too near é")
    assert len(error.encode()) <= store.limits.error_bytes


async def test_an_aborted_writer_writes_nothing_more_and_refuses_writes():
    store = Gated()
    await store.create("a")
    writer = StreamWriter(store, "a")
    await writer.write(b"x")
    await store.entered.wait()
    await writer.write(b"y")
    await writer.abort()
    store.gate.set()
    with pytest.raises(InvalidRequest):
        await writer.write(b"z")
    assert b"y" not in await content(store)


async def test_a_missing_stream_is_reported_by_the_first_flush():
    writer = StreamWriter(MemoryStreamStore(), "nowhere")
    await writer.write(b"x")
    with pytest.raises(StreamNotFound):
        await writer.flush()


async def test_an_oversized_ending_is_refused_and_loses_nothing():
    store = MemoryStreamStore()
    await store.create("a")
    writer = StreamWriter(store, "a")
    await writer.write(b"x")
    with pytest.raises(LimitExceeded):
        await writer.aclose("error", error="x" * 5000)
    await writer.aclose("error", error="x")
    assert await content(store) == b"x"


@pytest.mark.parametrize(
    "options",
    [{"linger": -1}, {"heartbeat": 0}, {"max_buffer_bytes": 0}, {"retry_for": float("nan")}],
)
async def test_wrong_settings_are_refused(options):
    with pytest.raises(InvalidRequest):
        StreamWriter(MemoryStreamStore(), "a", **options)
