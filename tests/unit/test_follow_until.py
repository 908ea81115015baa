"""Waiting for a state or for attributes, past the records."""

from __future__ import annotations

import asyncio

import pytest

from streamstores import (
    InvalidRequest,
    MemoryStreamStore,
    SQLiteStreamStore,
    State,
    StoreUnavailable,
    StreamNotFound,
    follow,
)
from tests.wrapping import Wrapping


class Asked:
    """A condition on the attributes that counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, info) -> bool:
        self.times += 1
        return info.attributes.get("owner") == "other"


async def waiting(follower, condition):
    task = asyncio.create_task(follower.until(condition))
    while not condition.times:
        await asyncio.sleep(0.001)
    return task


async def test_records_do_not_wake_it_and_a_change_of_attributes_does():
    async with MemoryStreamStore() as store:
        await store.create("a", b"0")
        asked = Asked()
        follower = follow(store, "a")
        task = await waiting(follower, asked)
        for _ in range(50):
            await store.append("a", b"x")
            await asyncio.sleep(0)
        assert asked.times == 1
        await store.append("a", attributes={"owner": "other"})
        info = await task
        assert info.attributes == {"owner": "other"}
        assert follower.offset == 51, "it goes on behind the records that it passed over"
        await store.append("a", b"y", state="done")
        assert [record.data async for record in follower] == [b"y"]


@pytest.mark.parametrize("state", [State.STOPPED, State.DONE, State.ERROR])
async def test_it_returns_when_the_stream_has_left_streaming(state):
    async with MemoryStreamStore() as store:
        await store.create("a")
        task = await waiting(follow(store, "a"), Asked())
        await store.mark_done("a", state)
        assert (await task).state is state


async def test_it_returns_at_once_if_the_condition_is_met_already():
    async with MemoryStreamStore() as store:
        await store.create("a", attributes={"owner": "other"})
        assert (await follow(store, "a").until(Asked())).version


async def test_a_change_in_another_process_reaches_it(tmp_path):
    async with SQLiteStreamStore(tmp_path / "x.db") as store:
        async with SQLiteStreamStore(tmp_path / "x.db") as elsewhere:
            await store.create("a", b"0" * 10)
            task = await waiting(follow(store, "a", 10), Asked())
            await elsewhere.append("a", b"x", attributes={"owner": "other"})
            assert (await task).tail == 11


async def test_a_deleted_stream_and_a_closed_store_raise():
    store = MemoryStreamStore()
    await store.create("a")
    await store.create("b")
    deleted = await waiting(follow(store, "a"), Asked())
    closed = await waiting(follow(store, "b"), Asked())
    await store.delete("a")
    with pytest.raises(StreamNotFound):
        await deleted
    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await closed


async def test_it_works_on_a_store_that_shares_no_changes():
    async with Wrapping() as store:
        await store.create("a", b"0")
        task = await waiting(follow(store, "a"), Asked())
        await store.append("a", b"x", attributes={"owner": "other"})
        assert (await task).tail == 2


@pytest.mark.parametrize("wait", ["batch", "anext", "until"])
async def test_a_follower_that_is_closed_elsewhere_waits_no_longer(wait):
    async with MemoryStreamStore() as store:
        await store.create("a", b"0")
        follower = follow(store, "a", 1)

        async def step():
            if wait == "batch":
                return await follower.batch()
            if wait == "anext":
                return [record async for record in follower]
            with pytest.raises(InvalidRequest, match="closed"):
                await follower.until(lambda info: False)
            return []

        task = asyncio.create_task(step())
        while follower._waiter is None:
            await asyncio.sleep(0)
        await follower.aclose()
        assert await asyncio.wait_for(task, 30) == []
        assert store.changes.subscribed_ids == []
