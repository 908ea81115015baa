"""The followers of one process share what they read. The tests count the calls of the store."""

from __future__ import annotations

import asyncio
import gc

import pytest

from streamstores import (
    InvalidRequest,
    Limits,
    MemoryStreamStore,
    ProducerHandedOver,
    ProducerLost,
    SQLiteStreamStore,
    State,
    StoreUnavailable,
    StreamNotFound,
    _creation,
    follow,
)
from streamstores._shared_reader import RECENT_BYTES, shared_reader_of
from tests.wrapping import Counting, Wrapping


async def collect(follower) -> bytes:
    return b"".join([record.data async for record in follower])


async def started(store, stream_id, count, offset=0):
    """`count` followers that have read all there is now, each with its task."""
    followers = [follow(store, stream_id, offset) for _ in range(count)]
    tasks = [asyncio.create_task(collect(follower)) for follower in followers]
    while not all(follower._live for follower in followers):
        await asyncio.sleep(0.001)
    return tasks


async def test_many_followers_cost_one_read_for_each_change():
    store = Counting()
    await store.create("a", b"0")
    tasks = await started(store, "a", 50)
    assert store.calls["read"] == 50, "one each at the start"
    for n in range(10):
        before = store.calls["read"]
        info = await store.append("a", b"x")
        reader = shared_reader_of(store, "a")
        while reader.info.version < info.version:
            await asyncio.sleep(0)
        assert store.calls["read"] == before + 1, n
    await store.mark_done("a")
    assert await asyncio.gather(*tasks) == [b"0" + b"x" * 10] * 50


async def test_appends_of_this_process_cost_its_followers_no_read(tmp_path, monkeypatch):
    async with SQLiteStreamStore(tmp_path / "x.db") as store:
        await store.create("a", b"0")
        tasks = await started(store, "a", 5)
        reads = []
        read = store.read
        monkeypatch.setattr(store, "read", lambda *args: reads.append(args) or read(*args))
        for _ in range(20):
            await store.append("a", b"x")
        await store.mark_done("a")
        assert await asyncio.gather(*tasks) == [b"0" + b"x" * 20] * 5
        # The watcher's look can overtake the news of a commit, which costs a read.
        assert len(reads) <= 5, reads


async def test_a_follower_that_was_given_the_info_reads_nothing(monkeypatch):
    """From the tail, or where the stream is followed already."""
    async with MemoryStreamStore() as store:
        info = await store.create("a", b"0")
        monkeypatch.delattr(MemoryStreamStore, "read")
        first = follow(store, "a", info.tail, info=info)
        step = asyncio.ensure_future(anext(first))
        while not first._live:
            await asyncio.sleep(0)
        await store.append("a", b"1")
        assert (await step).data == b"1"
        second = follow(store, "a", info.tail, info=info)
        await store.append("a", b"2", state=State.DONE)
        assert await collect(second) == b"12"
        assert await collect(first) == b"2"


async def test_a_follower_that_is_behind_reads_for_itself_and_misses_nothing():
    store = MemoryStreamStore()
    await store.create("a")
    slow = follow(store, "a")
    [fast] = await started(store, "a", 1)
    chunk = b"x" * 100_000
    await store.append("a", b"first")
    assert (await anext(slow)).data == b"first"
    for n in range(60):
        await store.append("a", bytes([n]), chunk)
        await asyncio.sleep(0)
    reader = shared_reader_of(store, "a")
    kept = sum(len(record.data) for record in reader._records)
    assert kept <= 2 * RECENT_BYTES + 2 * len(chunk)
    await store.mark_done("a")
    expected = b"".join(bytes([n]) + chunk for n in range(60))
    assert await collect(slow) == expected
    assert await fast == b"first" + expected


async def test_a_read_that_a_local_commit_overtakes_is_not_taken_for_that_of_a_namesake():
    class Slow(MemoryStreamStore):
        """Its reads return the state at the time of the call, however late they return."""

        gate = None

        async def read(self, *args, **options):
            page = await super().read(*args, **options)
            if self.gate is not None:
                await self.gate.wait()
            return page

    store = Slow()
    await store.create("a", b"1")
    [task] = await started(store, "a", 1)
    store.gate = asyncio.Event()
    store.changes.noticed("a")  # the shared reader asks, and is kept waiting
    await asyncio.sleep(0)
    await store.append("a", b"2", state="done")
    store.gate.set()
    assert await task == b"12"


async def test_nothing_is_kept_when_the_followers_have_left():
    store = MemoryStreamStore()
    await store.create("a", b"1")
    await started_and_cancelled(store)
    async with follow(store, "a") as follower:
        await anext(follower)
    abandoned = follow(store, "a")
    await anext(abandoned)
    del abandoned
    await asyncio.sleep(0)  # a task's last exception outlives it by one turn of the loop
    gc.collect()
    assert shared_reader_of(store, "a") is None
    assert store.changes.subscribed_ids == []
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def started_and_cancelled(store):
    [task] = await started(store, "a", 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_step_can_be_made_again():
    store = MemoryStreamStore()
    await store.create("a")
    follower = follow(store, "a")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(anext(follower), 0.01)
    await store.append("a", b"later", state="done")
    assert await collect(follower) == b"later"


async def test_batches_and_steps_mix():
    store = MemoryStreamStore()
    await store.create("a", b"1", b"2", b"3", b"4", state="done")
    follower = follow(store, "a")
    assert (await anext(follower)).data == b"1"
    assert follower.offset == 1
    assert [record.data for record in await follower.batch()] == [b"2", b"3", b"4"]
    assert follower.offset == 4
    assert await follower.batch() == []
    assert follower.info.state is State.DONE


async def test_an_unavailable_store_raises_and_following_goes_on_from_there():
    class Away(Wrapping):
        away = False

        async def read(self, stream_id, offset=0, **options):
            if self.away:
                raise StoreUnavailable("away")
            return await super().read(stream_id, offset, **options)

    store = Away()
    await store.create("a", b"1")
    followers = [follow(store, "a") for _ in range(3)]
    for follower in followers:
        await anext(follower)
    waiting = [asyncio.create_task(anext(follower)) for follower in followers]
    await asyncio.sleep(0.01)
    store.away = True
    await store.append("a", b"2", state="done")
    for task in waiting:
        with pytest.raises(StoreUnavailable):
            await task
    store.away = False
    assert await collect(follow(store, "a", followers[0].offset)) == b"2"


async def test_a_heartbeat_without_a_notice_is_found_before_the_producer_is_called_lost():
    """All notices are lost, so only a look at the store can tell that the producer lives."""

    class Deaf(MemoryStreamStore):
        def __init__(self):
            super().__init__()
            self.changes.committed = lambda *args: None

    store = Deaf()
    info = await store.create("a")
    follower = follow(store, "a", producer_timeout=0.2)
    step = asyncio.create_task(anext(follower))
    while not follower._live:
        await asyncio.sleep(0)
    beat = await store.append("a")
    with pytest.raises(ProducerLost) as caught:
        await step
    assert caught.value.info.version == beat.version > info.version
    assert caught.value.silent_seconds == 0.2


async def test_silence_counts_from_the_last_heartbeat_and_costs_one_look_at_the_store(
    monkeypatch,
):
    async with MemoryStreamStore() as store:
        await store.create("a")
        follower = follow(store, "a", producer_timeout=0.2)
        step = asyncio.create_task(anext(follower))
        while not follower._live:
            await asyncio.sleep(0)
        beat = await store.append("a")
        looks = []
        info = store.info
        monkeypatch.setattr(store, "info", lambda key: looks.append(key) or info(key))
        with pytest.raises(ProducerLost) as caught:
            await step
        assert caught.value.info.version == beat.version
        assert looks == ["a"]


async def test_a_hand_over_is_raised_at_once_without_a_timeout():
    async with MemoryStreamStore() as store:
        await store.create("a", b"1", attributes={"owner": "me"})
        follower = follow(store, "a", is_lost=lambda info: info.attributes["owner"] == "")
        assert (await anext(follower)).data == b"1"
        step = asyncio.create_task(anext(follower))
        await _until_all_wait("a", store, 1)
        info = await store.append("a", attributes={"owner": ""})
        with pytest.raises(ProducerHandedOver, match="'a' has handed it over") as caught:
            await step
        assert caught.value.info == info


async def test_the_followers_of_a_stream_share_the_timers_for_its_silence():
    async with MemoryStreamStore() as store:
        await store.create("a")
        followers = [follow(store, "a", producer_timeout=5 + n % 2) for n in range(40)]
        followers.append(follow(store, "a", producer_timeout=float("inf")))
        steps = [asyncio.create_task(anext(follower)) for follower in followers]
        reader = await _until_all_wait("a", store, len(steps))
        assert sorted(reader._alarms) == [5, 6]
        await store.append("a", b"x")
        assert [record.data for record in await asyncio.gather(*steps)] == [b"x"] * 41


async def test_each_follower_waits_out_its_own_timeout():
    """The alarm of the shorter timeout wakes all of them."""
    async with MemoryStreamStore() as store:
        await store.create("a")
        patient = follow(store, "a", producer_timeout=60)
        waiting = asyncio.create_task(anext(patient))
        hasty = asyncio.create_task(anext(follow(store, "a", producer_timeout=0.05)))
        forever = asyncio.create_task(anext(follow(store, "a")))
        await _until_all_wait("a", store, 3)
        with pytest.raises(ProducerLost):
            await hasty
        await _until_all_wait("a", store, 2)
        await store.append("a", b"x")
        assert (await waiting).data == (await forever).data == b"x"


async def _until_all_wait(stream_id, store, count):
    while True:
        reader = shared_reader_of(store, stream_id)
        if reader is not None and len(reader._waiters) == count:
            return reader
        await asyncio.sleep(0)


async def test_a_namesake_in_another_process_is_not_read_from_the_shared_records(tmp_path):
    """The stream is deleted and begun anew elsewhere, and the notices are lost. The next reader
    finds out."""
    path = tmp_path / "x.db"
    here, there = SQLiteStreamStore(path, watch_interval=1), SQLiteStreamStore(path)
    async with here, there:
        await here.create("a", b"old")
        old = follow(here, "a")
        await anext(old)
        waiting = asyncio.create_task(anext(old))
        await there.delete("a")
        await there.create("a", b"new", state="done")
        assert await collect(follow(here, "a")) == b"new"
        with pytest.raises(StreamNotFound):
            await waiting


@pytest.mark.parametrize(
    "arguments",
    [
        {"offset": -1},
        {"offset": "0"},
        {"offset": True},
        {"producer_timeout": -1},
        {"wait_for_create": -1},
        {"wait_for_create": None},
        {"stream_id": ""},
        {"stream_id": None},
        {"stream_id": ["a"]},
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments):
    with pytest.raises(InvalidRequest):
        follow(MemoryStreamStore(), **{"stream_id": "a", **arguments})


async def test_the_info_of_another_stream_is_refused():
    async with MemoryStreamStore() as store:
        info = await store.create("a")
        with pytest.raises(InvalidRequest, match="'a', not of 'b'"):
            follow(store, "b", info=info)


async def test_a_creation_in_this_process_is_noticed_without_polling(monkeypatch):
    monkeypatch.setattr(_creation, "_FIRST_PAUSE", 600.0)
    monkeypatch.setattr(_creation, "_LONGEST_PAUSE", 600.0)
    async with MemoryStreamStore() as store:
        follower = follow(store, "a", wait_for_create=600)
        step = asyncio.create_task(anext(follower))
        while not store.changes.subscribed_ids:
            await asyncio.sleep(0)
        await store.create("a", b"1")
        assert (await step).data == b"1"


async def test_wait_for_create_counts_from_the_first_step_even_if_that_is_cancelled():
    async with MemoryStreamStore() as store:
        follower = follow(store, "a", wait_for_create=0.1)
        step = asyncio.create_task(anext(follower))
        while not store.changes.subscribed_ids:
            await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
        await asyncio.sleep(0.1)
        begin = follower._created_by
        with pytest.raises(StreamNotFound):
            await anext(follower)
        assert follower._created_by == begin
        assert store.changes.subscribed_ids == []


async def test_the_repr_of_a_follower_names_its_stream():
    async with MemoryStreamStore() as store:
        await store.create("a", b"123")
        follower = follow(store, "a")
        assert repr(follower) == f"<Follower of 'a' at 0, not read yet, in {store!r}>"
        await anext(follower)
        assert repr(follower) == f"<Follower of 'a' at 3, streaming, in {store!r}>"
        assert repr(shared_reader_of(store, "a")) == "<SharedReader of 'a' at 3>"
        assert repr(store.changes) == "<Changes, open, with subscriptions to 1 streams>"


async def test_when_a_new_follower_reads_ahead_the_others_get_the_rest_at_once():
    """The notice is lost and the next poll far away. The new follower's own read shows the
    others only the first page of the last word, so the shared reader has to read the rest."""
    size = 1_048_576
    async with MemoryStreamStore(limits=Limits(poll_interval=3600)) as store:
        store.changes.committed = lambda *args: None
        await store.create("a", b"0")
        [waiting] = await started(store, "a", 1, offset=1)
        await _until_all_wait("a", store, 1)
        await store.append("a", *[b"x" * size] * 3, state="done")
        newcomer = asyncio.create_task(collect(follow(store, "a", 1)))
        both = await asyncio.wait_for(asyncio.gather(waiting, newcomer), 20)
        assert [len(data) for data in both] == [3 * size] * 2
