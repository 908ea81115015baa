"""The seam between followers and stores, as wrappers keep it, forget it, or break it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from streamstores import Limits, MemoryStreamStore, StreamStore, follow
from streamstores._shared_reader import shared_reader_of
from streamstores._shared_readers import readers_by_store
from streamstores.changes import Changes, changes_of
from tests.wrapping import Counting, Delegating, Wrapping

HOUR = Limits(poll_interval=3600)


class Metered(Delegating):
    """Delegates the seam, and counts what it is asked for."""

    reads = 0
    closed = False

    async def read(self, *args: Any, **options: Any) -> Any:
        if self.closed:
            raise RuntimeError("read after the wrapper was closed")
        type(self).reads += 1
        return await self.inner.read(*args, **options)


async def live(store: StreamStore) -> asyncio.Task[bytes]:
    """A follower of stream "a" that has read all there is, and what it gets from then on."""
    follower = follow(store, "a")

    async def collect() -> bytes:
        return b"".join([record.data async for record in follower])

    task = asyncio.create_task(collect())
    while not follower._live:
        await asyncio.sleep(0)
    return task


async def test_wrappers_made_anew_for_each_request_share_one_reader_and_read_no_commit():
    async with MemoryStreamStore(limits=HOUR) as inner:
        await inner.create("a", b"0")
        Metered.reads = 0
        followers = [await live(Metered(inner)) for _ in range(20)]
        assert Metered.reads == 20, "one each at the start"
        for _ in range(10):
            await Metered(inner).append("a", b"x")
        await inner.mark_done("a")
        assert await asyncio.gather(*followers) == [b"0" + b"x" * 10] * 20
        assert Metered.reads == 20


async def test_the_reader_goes_on_when_the_wrapper_it_read_through_is_closed():
    """Its follower has left: what the others need is read through one of theirs."""
    async with MemoryStreamStore(limits=HOUR) as inner:
        inner.changes.committed = lambda *args: None  # so that there is something to read
        await inner.create("a", b"0")
        first = Metered(inner)
        leaving = follow(first, "a")
        await anext(leaving)
        staying = await live(Metered(inner))
        await leaving.aclose()
        first.closed = True
        await inner.append("a", b"1", state="done")
        inner.changes.noticed("a")
        assert await staying == b"01"


async def test_a_wrapper_that_was_left_is_not_kept_by_the_reader():
    async with MemoryStreamStore() as inner:
        await inner.create("a", b"0")
        first = Metered(inner)
        leaving = follow(first, "a")
        await anext(leaving)
        staying = await live(Metered(inner))
        await leaving.aclose()
        ref = weakref.ref(first)
        del first, leaving
        await inner.append("a", b"1")
        await asyncio.sleep(0)
        gc.collect()
        assert ref() is None
        await inner.mark_done("a")
        assert await staying == b"01"


async def test_a_wrapper_that_forgets_to_delegate_is_slower_and_never_wrong():
    """It copies the capabilities, so it declares what it does not have."""

    class Forgetful(Counting):
        def __init__(self, inner: StreamStore) -> None:
            super().__init__(inner)
            self.capabilities = inner.capabilities

    async with MemoryStreamStore(limits=HOUR) as inner:
        store = Forgetful(inner)
        assert changes_of(store) is None
        await store.create("a", b"0")
        followers = [await live(store) for _ in range(5)]
        for _ in range(3):
            info = await store.append("a", b"x")
            reader = shared_reader_of(store, "a")
            assert reader is not None
            while reader.info.version < info.version:
                await asyncio.sleep(0)
        await store.mark_done("a")
        assert await asyncio.gather(*followers) == [b"0xxx"] * 5
        assert store.calls["read"] <= 5 + 4, "one each at the start, and one for each change"


async def test_a_wrapper_whose_wait_never_wakes_costs_the_poll_interval_and_no_more():
    class Asleep(Wrapping):
        async def wait(self, stream_id: str, **options: Any) -> Any:
            await asyncio.Event().wait()

    async with MemoryStreamStore(limits=Limits(poll_interval=0.05)) as inner:
        await inner.create("a", b"0")
        follower = await live(Asleep(inner))
        await inner.append("a", b"1", state="done")
        assert await asyncio.wait_for(follower, 20) == b"01"


async def test_an_error_of_the_wrappers_wait_reaches_the_follower():
    class Away(Wrapping):
        async def wait(self, stream_id: str, **options: Any) -> Any:
            raise ConnectionError("away")

    async with MemoryStreamStore() as inner:
        await inner.create("a", b"0")
        with pytest.raises(ConnectionError):
            await (await live(Away(inner)))


async def test_a_new_followers_read_wakes_the_others_even_if_the_store_shares_no_changes():
    """The wrapper's wait never wakes and the poll is far away."""
    size = 1_048_576

    class Asleep(Wrapping):
        async def wait(self, stream_id: str, **options: Any) -> Any:
            await asyncio.Event().wait()

    async with MemoryStreamStore(limits=HOUR) as inner:
        store = Asleep(inner)
        await inner.create("a", b"0")
        waiting = await live(store)
        await inner.append("a", *[b"x" * size] * 3, state="done")
        newcomer = follow(store, "a", 1)
        got = [record.data async for record in newcomer]
        assert [len(data) for data in got] == [size] * 3
        assert len(await asyncio.wait_for(waiting, 20)) == 1 + 3 * size


async def test_changes_that_are_not_declared_are_not_used():
    """So a wrapper that delegates every attribute can still decline to share changes."""

    class PassesAllOn(Wrapping):
        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    async with MemoryStreamStore() as inner:
        store = PassesAllOn(inner)
        assert store.changes is inner.changes
        assert changes_of(store) is None


async def test_a_proxy_that_passes_every_attribute_on_shares_the_changes():
    class Proxy:
        def __init__(self, inner: MemoryStreamStore) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    async with MemoryStreamStore() as inner:
        assert changes_of(Proxy(inner)) is inner.changes


@pytest.mark.parametrize("changes", [None, object(), "changes"])
async def test_changes_of_another_kind_are_not_used(changes: object):
    async with MemoryStreamStore() as inner:
        store = Delegating(inner)
        type(store).changes = property(lambda self: changes)
        try:
            assert changes_of(store) is None
        finally:
            type(store).changes = property(lambda self: self.inner.changes)


async def test_a_store_need_be_neither_hashable_nor_weakly_referable():
    @dataclass
    class Unhashable(Wrapping):
        inner: Any = field(default_factory=MemoryStreamStore)

        def __post_init__(self) -> None:
            super().__init__(self.inner)

    class Slotted:
        __slots__ = ("capabilities", "inner", "limits")
        create, append, mark_done = Wrapping.create, Wrapping.append, Wrapping.mark_done
        read, wait, info = Wrapping.read, Wrapping.wait, Wrapping.info
        __init__ = Wrapping.__init__

    for store in (Unhashable(), Slotted()):
        await store.create("a", b"0")
        followers = [await live(store) for _ in range(2)]  # type: ignore[arg-type]
        await store.append("a", b"1", state="done")
        assert await asyncio.gather(*followers) == [b"01"] * 2
        await store.inner.aclose()


async def test_the_readers_of_a_store_that_is_gone_are_forgotten():
    store = Wrapping()
    key = id(store)
    await store.create("a", b"0")
    follower = follow(store, "a")
    await anext(follower)
    assert key in readers_by_store
    await follower.aclose()
    await store.aclose()
    del store, follower
    await asyncio.sleep(0)
    gc.collect()
    assert key not in readers_by_store


def test_every_store_of_the_package_shares_its_changes():
    import streamstores

    for name in streamstores._STORES:
        assert "changes" in getattr(streamstores, name).capabilities
    assert isinstance(MemoryStreamStore().changes, Changes)
