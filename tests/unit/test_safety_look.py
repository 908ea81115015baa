"""The safety look, with a store whose other processes send no notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from streamstores import (
    Follower,
    Limits,
    MemoryStreamStore,
    StoreUnavailable,
    StreamNotFound,
    StreamStore,
    follow,
)
from streamstores._safety_look import RUNG_AT_ONCE, STREAMS_AT_ONCE, SafetyLook
from streamstores.changes import Changes
from tests.wrapping import Wrapping

HOUR = Limits(poll_interval=3600)


class Unheard(Wrapping):
    """What is changed through `inner` is another process's, and no notice of it arrives."""

    def __init__(self) -> None:
        super().__init__(MemoryStreamStore(limits=HOUR))
        self.capabilities |= {"changes"}
        self.changes = Changes()
        self.changes.look_every(3600, self.find)
        self.calls: list[str] = []
        self.looks: list[Mapping[str, int]] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, *args: Any, **options: Any) -> Any:
        self.calls.append("read")
        if self.failure is not None:
            raise self.failure
        return await super().read(*args, **options)

    async def info(self, stream_id: str) -> Any:
        self.calls.append("info")
        return await super().info(stream_id)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> Any:
        return await self.changes.wait(
            self.info, stream_id, version=version, timeout=timeout, poll_interval=0.01
        )

    async def find(self, known: Mapping[str, int]) -> dict[str, int | None]:
        self.calls.append("look")
        self.looks.append(known)
        found: dict[str, int | None] = {}
        for stream_id, version in known.items():
            try:
                info = await self.inner.info(stream_id)
            except StreamNotFound:
                found[stream_id] = None
            else:
                if info.version != version:
                    found[stream_id] = info.version
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return found

    async def look(self) -> None:
        look = self.changes._safety_look
        assert look is not None
        await look_at_all(look, self.changes.subscriptions)


async def look_at_all(look: SafetyLook, stream_ids: Iterable[str]) -> None:
    look.look_soon(stream_ids)
    while look._looking is not None:
        await asyncio.wait([look._looking])
        await asyncio.sleep(0)


async def live(store: StreamStore, *stream_ids: str) -> list[Follower]:
    """Followers that have read the "0" of their streams and wait for more."""
    followers = [follow(store, each) for each in stream_ids]
    for follower in followers:
        assert (await anext(follower)).data == b"0"
    return followers


async def test_one_look_finds_the_changes_of_all_streams():
    store = Unheard()
    ids = [f"s{number}" for number in range(5)]
    for each in ids:
        await store.create(each, b"0")
    followers = await live(store, *ids)
    steps = [asyncio.ensure_future(anext(each)) for each in followers]
    for each in ids[:2]:
        await store.inner.append(each, b"1")
    store.calls.clear()
    await store.look()
    assert [(await step).data for step in steps[:2]] == [b"1", b"1"]
    assert store.calls == ["look", "read", "read"]
    assert not any(step.done() for step in steps[2:])
    for each in ids:
        await store.inner.append(each, b"2", state="done")
    await store.look()
    assert [(await step).data for step in steps[2:]] == [b"2"] * 3
    await store.aclose()


async def test_a_quiet_follower_asks_nothing_while_looks_are_made():
    """Not even after the store's `poll_interval`."""
    store = Unheard()
    store.limits = Limits(poll_interval=0.001)
    await store.create("a", b"0")
    [follower] = await live(store, "a")
    step = asyncio.ensure_future(anext(follower))
    store.calls.clear()
    for _ in range(20):
        await asyncio.sleep(0.002)
        await store.look()
    assert store.calls == ["look"] * 20
    assert not step.done()
    await store.inner.mark_done("a")
    await store.look()
    with pytest.raises(StopAsyncIteration):
        await step
    await store.aclose()


async def test_a_look_finds_a_stream_that_is_gone_and_one_begun_anew():
    store = Unheard()
    for each in ("gone", "anew"):
        await store.create(each, b"0")
    steps = [asyncio.ensure_future(anext(each)) for each in await live(store, "gone", "anew")]
    for each in ("gone", "anew"):
        await store.inner.delete(each)
    await store.inner.create("anew", b"0")
    await store.look()
    for step in steps:
        with pytest.raises(StreamNotFound):
            await step
    await store.aclose()


async def test_a_look_wakes_a_wait():
    store = Unheard()
    info = await store.create("a")
    waiting = asyncio.ensure_future(store.wait("a", version=info.version, timeout=60))
    while not store.calls:
        await asyncio.sleep(0)
    after = await store.inner.append("a", b"1")
    await store.look()
    assert await waiting == after
    await store.aclose()


async def test_a_change_that_was_heard_of_while_the_look_was_under_way_is_no_news():
    store = Unheard()
    await store.create("a", b"0")
    [follower] = await live(store, "a")
    step = asyncio.ensure_future(anext(follower))
    await store.inner.append("a", b"1")  # the look sees this
    store.gate.clear()
    looking = asyncio.ensure_future(store.look())
    while not store.looks:
        await asyncio.sleep(0)
    info = await store.inner.append("a", b"2")  # and this is heard of
    store.changes.noticed("a", info.version)
    assert (await step).data == b"1"
    store.calls.clear()
    store.gate.set()
    await looking
    await asyncio.sleep(0)
    assert store.calls == []
    await store.aclose()


async def test_subscribers_of_different_versions_are_told_apart():
    store = Unheard()
    info = await store.create("a", b"0")
    behind, ahead = (store.changes.subscribe("a").start() for _ in range(2))
    behind.info, ahead.info = info, await store.inner.append("a", b"1")
    await store.look()
    assert await behind.wait(0)
    assert not await ahead.wait(0)
    await store.inner.delete("a")
    await store.look()
    assert await behind.wait(0)
    assert await ahead.wait(0)
    await store.aclose()


async def test_if_a_look_fails_each_follower_asks_for_itself_and_gets_the_error():
    store = Unheard()
    for each in ("a", "b"):
        await store.create(each, b"0")
    steps = [asyncio.ensure_future(anext(each)) for each in await live(store, "a", "b")]
    store.failure = StoreUnavailable("away")
    await store.look()
    for step in steps:
        with pytest.raises(StoreUnavailable, match="away"):
            await step
    await store.aclose()


async def test_many_streams_are_asked_about_in_slices():
    store = Unheard()
    count = STREAMS_AT_ONCE + 1
    subscriptions = [store.changes.subscribe(f"s{number}").start() for number in range(count)]
    info = await store.create("s0")
    for subscription in subscriptions:
        subscription.info = info
    await store.look()
    assert [len(known) for known in store.looks] == [STREAMS_AT_ONCE, 1]
    await store.aclose()


async def test_looks_are_made_as_long_as_a_stream_is_followed():
    store = Unheard()
    store.changes.look_every(0.01, store.find)
    await store.create("a", b"0")
    [follower] = await live(store, "a")
    step = asyncio.ensure_future(anext(follower))
    while len(store.looks) < 3:
        await asyncio.sleep(0.01)
    step.cancel()
    await follower.aclose()
    look = store.changes._safety_look
    assert look is not None
    assert look._timer is None
    while look._looking is not None:
        await asyncio.sleep(0)
    store.looks.clear()
    [follower] = await live(store, "a")
    while len(store.looks) < 2:
        await asyncio.sleep(0.01)
    store.changes.close()
    assert look._timer is None
    await follower.aclose()


def test_looks_go_on_in_another_event_loop():
    store = Unheard()
    store.changes.look_every(0.01, store.find)

    async def follow_for_a_while() -> None:
        subscription = store.changes.subscribe("a").start()
        subscription.info = await store.inner.info("a")
        count = len(store.looks)
        while len(store.looks) < count + 2:
            await asyncio.sleep(0.01)

    async def create() -> None:
        await store.inner.create("a")

    for work in (create, follow_for_a_while):
        asyncio.run(work())
    store.changes.subscriptions.clear()  # whose loop is gone
    asyncio.run(follow_for_a_while())


async def test_lost_notices_cost_one_question_and_a_read_for_each_stream_that_changed():
    store = Unheard()
    ids = [f"s{number}" for number in range(50)]
    for each in ids:
        await store.create(each, b"0")
    steps = [asyncio.ensure_future(anext(each)) for each in await live(store, *ids)]
    await store.inner.append(ids[7], b"1")
    store.calls.clear()
    store.changes.noticed_all()
    assert (await steps[7]).data == b"1"
    assert store.calls == ["look", "read"]
    await store.aclose()


async def test_notices_that_are_lost_while_a_look_is_under_way_are_looked_for_after_it():
    store = Unheard()
    await store.create("a", b"0")
    [follower] = await live(store, "a")
    step = asyncio.ensure_future(anext(follower))
    store.gate.clear()
    store.changes.noticed_all()
    while not store.looks:
        await asyncio.sleep(0)
    await store.inner.append("a", b"1")  # after the question was answered
    store.changes.noticed_all()
    store.gate.set()
    assert (await step).data == b"1"
    assert len(store.looks) == 2
    await store.aclose()


async def test_lost_notices_wake_a_wait_for_a_stream_that_is_not_there_yet():
    """No look can ask about it."""
    store = Unheard()
    with store.changes.subscribe("a") as subscription:
        store.changes.noticed_all()
        assert await subscription.wait(0)
    await store.aclose()


class Bell:
    """A subscriber that counts how often it was rung."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1


async def crowd(count: int) -> dict[str, list[Bell]]:
    async with MemoryStreamStore() as store:
        info = await store.create("a")
    return {f"s{number}": [Bell(info)] for number in range(count)}


async def test_what_is_due_just_when_a_look_ends_is_asked_about():
    """The task is done then, but the look has not heard of that."""
    bells, asked = await crowd(2), []

    async def find(known: Mapping[str, int]) -> dict[str, int | None]:
        asked.append(list(known))
        if known.keys() == {"s0"}:
            asyncio.get_running_loop().call_soon(look.look_soon, ["s1"])
        return {}

    look = SafetyLook(bells, find, 3600)
    look.look_soon(["s0"])
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked == [["s0"], ["s1"]]


async def test_a_look_that_fails_rings_a_crowd_little_by_little_until_one_succeeds():
    """All at once would ask so much that the next look fails too, and so on for ever."""
    bells = await crowd(10 * RUNG_AT_ONCE)
    is_away = True

    async def find(known: Mapping[str, int]) -> dict[str, int | None]:
        if is_away:
            raise StoreUnavailable("away")
        return {}

    look = SafetyLook(bells, find, 0.5)
    rung = lambda: sum(bell.rings for [bell] in bells.values())  # noqa: E731
    await look_at_all(look, bells)
    while not rung():
        await asyncio.sleep(0)
    assert rung() <= RUNG_AT_ONCE
    is_away = False
    await look_at_all(look, bells)
    before = rung()
    await asyncio.sleep(1)
    assert rung() == before
    is_away = True
    await look_at_all(look, bells)
    while any(bell.rings == 0 for [bell] in bells.values()):
        await asyncio.sleep(0.01)
    look.stop()
