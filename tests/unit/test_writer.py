"""`StreamWriter`: batches, back-pressure, fencing, and retries that lose and double nothing."""

from __future__ import annotations

import asyncio

import pytest

from streamstores import (
    Conflict,
    InvalidRequest,
    LimitExceeded,
    Limits,
    MemoryStreamStore,
    OutcomeUnknown,
    State,
    StoreUnavailable,
    StreamClosed,
    StreamNotFound,
    StreamWriter,
)
from tests.wrapping import Counting, Faulty, Wrapping


async def content(store, stream_id="a") -> bytes:
    page = await store.read(stream_id, max_bytes=10**9)
    return b"".join(record.data for record in page.records)


class Gated(Counting):
    """Holds every append at the door until `gate` is set."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def append(self, stream_id, *chunks, **options):
        self.entered.set()
        await self.gate.wait()
        return await super().append(stream_id, *chunks, **options)


async def test_what_gathers_while_an_append_is_in_flight_goes_out_as_one():
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
    blocked = asyncio.create_task(writer.write(b"0123456789"))
    done, _ = await asyncio.wait([blocked], timeout=0.05)
    assert not done
    store.gate.set()
    await blocked
    await writer.aclose("done")
    assert await content(store) == b"first0123456789"


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


@pytest.mark.parametrize("fault", ["before", "lost", "landed"])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_failed_append_is_repeated_and_neither_lost_nor_doubled(fault, at):
    store = Faulty(*[None] * at, fault)
    await store.create("a")
    async with StreamWriter(store, "a", info=await store.info("a")) as writer:
        for chunk in (b"one", b"two", b"three"):
            await writer.write(chunk)
            await writer.flush()
    assert await content(store) == b"onetwothree"
    info = await store.info("a")
    assert info.state is State.DONE
    assert not store.faults


async def test_many_failures_in_a_row_are_outlived():
    store = Faulty("before", "lost", "landed", "before")
    await store.create("a")
    async with StreamWriter(store, "a") as writer:
        await writer.write(b"text")
    assert await content(store) == b"text"
    assert (await store.info("a")).state is State.DONE


@pytest.mark.parametrize(
    ("fault", "error"), [("before", StoreUnavailable), ("lost", OutcomeUnknown)]
)
async def test_it_gives_up_with_the_error_after_retry_for(fault, error):
    store = Faulty(*[fault] * 1000)
    await store.create("a")
    writer = StreamWriter(store, "a", retry_for=0.1)
    await writer.write(b"x")
    with pytest.raises(error):
        await writer.flush()
    with pytest.raises(error):
        await writer.write(b"y")
    with pytest.raises(error):
        await writer.aclose("done")


async def test_another_append_in_the_doubtful_moment_is_not_taken_for_its_own():
    """The namesake bytes of another producer are another's, also where they are equal."""

    class Stolen(Wrapping):
        stolen = False

        async def append(self, stream_id, *chunks, **options):
            if not self.stolen:
                self.stolen = True
                await self.inner.append(stream_id, attributes={"owner": "thief"})
                await self.inner.append(stream_id, *chunks)
                raise OutcomeUnknown("cut")
            return await super().append(stream_id, *chunks, **options)

    store = Stolen()
    await store.create("a", attributes={"owner": "me"})
    writer = StreamWriter(store, "a", info=await store.info("a"))
    await writer.write(b"same")
    with pytest.raises(Conflict):
        await writer.flush()
    assert await content(store) == b"same"


async def test_a_takeover_in_a_doubtful_heartbeat_is_seen():
    class Stolen(Wrapping):
        async def append(self, stream_id, *chunks, **options):
            if not options.get("attributes"):
                info = await self.inner.info(stream_id)
                if info.attributes.get("owner") != "thief":
                    await self.inner.append(stream_id, attributes={"owner": "thief"})
                    raise OutcomeUnknown("cut")
            return await super().append(stream_id, *chunks, **options)

    store = Stolen()
    await store.create("a", attributes={"owner": "me"})
    writer = StreamWriter(store, "a", info=await store.info("a"), heartbeat=0.01)
    writer.start()
    while True:
        try:
            await writer.flush()
        except Conflict:
            break
        await asyncio.sleep(0.01)


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


async def test_a_silent_writer_gives_signs_of_life():
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

    async def produce() -> None:
        async with StreamWriter(store, "stopped") as writer:
            await writer.write(b"x")
            await asyncio.Event().wait()

    task = asyncio.create_task(produce())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for stream_id in ("done", "error", "stopped"):
        info = await store.info(stream_id)
        assert (info.state, info.tail) == (State(stream_id), 1)
    error = (await store.info("error")).error
    assert error.startswith("too near é")
    assert len(error.encode()) <= store.limits.error_bytes


async def test_an_abort_forgets_the_buffer_and_a_closed_writer_refuses():
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
