"""Clause 9 as well: what closing a store does to its users, and what outlives the store."""

from __future__ import annotations

import asyncio

from streamstores.conformance.assertions import (
    PATIENCE,
    Call,
    content,
    equal,
    eventually,
    outcome,
    raises,
    within,
)
from streamstores.conformance.checks.followers import everything
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, StoreUnavailable
from streamstores.follow import follow


@check(9)
async def check_calls_after_close_are_refused(harness: Harness) -> None:
    """After aclose every call raises InvalidRequest; closing again does nothing."""
    store = await harness.open_new()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc")
    await store.aclose()
    await store.aclose()

    async def list_all() -> None:
        async for _ in store.list():
            pass

    calls: dict[str, Call] = {
        "create": lambda: store.create(harness.new_id()),
        "append": lambda: store.append(stream_id, b"x"),
        "mark_done": lambda: store.mark_done(stream_id),
        "read": lambda: store.read(stream_id),
        "wait": lambda: store.wait(stream_id, version=0, timeout=1),
        "info": lambda: store.info(stream_id),
        "expire": lambda: store.expire(stream_id, 10),
        "delete": lambda: store.delete(stream_id),
        "list": list_all,
        "sweep": store.sweep,
    }
    for name, call in calls.items():
        with raises(InvalidRequest, f"{name} after aclose"):
            await call()


@check(9)
async def check_waiters_learn_of_the_close(harness: Harness) -> None:
    """A waiter gets StoreUnavailable when the store is closed."""
    store = await harness.open_new()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    waiters = [
        harness.start(outcome(store.wait(stream_id, version=info.version, timeout=600)))
        for _ in range(5)
    ]
    await asyncio.sleep(0.05)
    await store.aclose()
    results = await within(PATIENCE.prompt, asyncio.gather(*waiters), "waiters after aclose")
    equal([type(each) for each in results], [StoreUnavailable] * 5, "outcomes of the waits")


@check(5)
async def check_followers_learn_of_the_close(harness: Harness) -> None:
    """A follower gets StoreUnavailable, not a normal end, when the store is closed."""
    store = await harness.open_new()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc")
    following = [harness.start(outcome(everything(follow(store, stream_id)))) for _ in range(3)]
    await asyncio.sleep(0.05)
    await store.aclose()
    results = await within(
        PATIENCE.prompt, asyncio.gather(*following), "followers, then aclose"
    )
    equal([type(each) for each in results], [StoreUnavailable] * 3, "outcomes of following")


@check(9)
async def check_close_leaves_no_task_behind(harness: Harness) -> None:
    """After aclose no task of the store is left in the event loop."""
    before = asyncio.all_tasks()
    store = await harness.open_new()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc", ttl=1000)
    # Calls of several kinds, because each may be what starts a background task.
    await store.wait(stream_id, version=info.version, timeout=0.01)
    await content(store, stream_id)
    await store.delete(stream_id)
    await store.aclose()

    async def no_task_is_left() -> bool:
        return not [task for task in asyncio.all_tasks() - before if not task.done()]

    await eventually(no_task_is_left, "the store's tasks have ended")


@check(9, "durable")
async def check_streams_outlive_the_store(harness: Harness) -> None:
    """A store object that is opened after the close finds everything that was written."""
    store = await harness.open_new()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc", ttl=1000, attributes={"a": "\x00é"})
    info = await store.append(stream_id, b"\x00\xff", state="error", error="why")
    await store.aclose()
    later = await harness.open_new()
    equal(await later.info(stream_id), info, "info")
    equal(await content(later, stream_id), b"abc\x00\xff", "bytes")


@check(9)
async def check_entering_gives_the_store(harness: Harness) -> None:
    """`async with store` yields a working store and closes it at the end of the block."""
    store = await harness.open_new()
    stream_id = harness.new_id()
    async with store as entered:
        await entered.create(stream_id, b"abc")
        equal(await content(entered, stream_id), b"abc", "bytes")
    with raises(InvalidRequest, "info after the block"):
        await store.info(stream_id)
