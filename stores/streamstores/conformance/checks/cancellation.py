"""Clause 9: a cancelled call leaves the store healthy, and an append whole or not applied."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from streamstores.conformance.assertions import (
    NO_ATTRIBUTES,
    PATIENCE,
    content,
    equal,
    outcome,
    read_all,
    within,
)
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import StreamNotFound
from streamstores.store import StreamInfo, StreamStore


async def cancel_after(steps: int, work: Coroutine[Any, Any, Any]) -> Any:
    """Cancel `work` after some turns of the loop; None if it was cancelled, else its result."""
    # By turns of the loop and not by seconds, so that some number of steps hits each `await` of
    # the store, on any machine.
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return None if task.cancelled() else task.result()


async def is_healthy(store: StreamStore, harness: Harness) -> None:
    """Check that many calls at once still succeed: no connection or lock was lost."""

    async def use() -> None:
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc")
        await store.append(stream_id, b"def", state="done")
        equal(await content(store, stream_id), b"abcdef", "bytes of a stream made later")

    # More than the usual pool has connections, so that a connection that was lost is missed.
    together = asyncio.gather(*(use() for _ in range(15)))
    await within(5 * PATIENCE.prompt, together, "15 streams made after the cancellations")


@check(9)
async def check_a_cancelled_append_is_whole_or_nothing(harness: Harness) -> None:
    """An append that is cancelled at any point was applied wholly or not at all."""
    store, other = await harness.open(), await harness.open()
    for steps in range(30):
        stream_id = harness.new_id()
        before = await store.create(stream_id, b"abc")
        work = store.append(stream_id, b"de", b"f", state="done", attributes={"a": "b"})
        result = await cancel_after(steps, work)
        page = await other.read(stream_id)
        data = b"".join(record.data for record in page.records)
        seen = (data, str(page.info.state), dict(page.info.attributes))
        if page.info.version == before.version and result is None:
            equal(seen, (b"abc", "streaming", NO_ATTRIBUTES), "a stream before the append")
        else:
            equal(seen, (b"abcdef", "done", {"a": "b"}), "a stream after the append")
    await is_healthy(store, harness)


@check(9)
async def check_a_cancelled_create_is_whole_or_nothing(harness: Harness) -> None:
    """A create that is cancelled at any point made the whole stream or none."""
    store, other = await harness.open(), await harness.open()
    for steps in range(20):
        stream_id = harness.new_id()
        work = store.create(stream_id, b"ab", b"c", state="done", attributes={"a": "b"})
        result = await cancel_after(steps, work)
        page = await outcome(other.read(stream_id))
        if isinstance(page, StreamNotFound):
            equal(result, None, "result of a create that did not happen")
            continue
        assert not isinstance(page, Exception), f"read raised {page!r}"
        data = b"".join(record.data for record in page.records)
        seen = (data, str(page.info.state), dict(page.info.attributes))
        equal(seen, (b"abc", "done", {"a": "b"}), "the stream")
    await is_healthy(store, harness)


PARTS = (b"a", b"bb", b"ccc")


@check(9)
async def check_a_storm_of_cancelled_appends(harness: Harness) -> None:
    """Of many appends cancelled at random, each landed wholly and once, or not at all."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    await stores[0].create(stream_id)
    # A fixed seed, so that a failure comes again.
    dice = random.Random(20)
    done: set[int] = set()

    async def append(number: int) -> None:
        chunks = [b"%03d%s" % (number, part) for part in PARTS]
        await stores[number % 2].append(stream_id, *chunks)
        done.add(number)

    for first in range(0, 400, 40):
        tasks = [harness.start(append(number)) for number in range(first, first + 40)]
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(0)
        if dice.random() < 0.4:
            await asyncio.sleep(dice.random() * 0.01)
        for task in dice.sample(tasks, 30):
            task.cancel()
        rest = asyncio.gather(*tasks, return_exceptions=True)
        outcomes = await within(5 * PATIENCE.prompt, rest, "the appends beside the cancelled")
        strange = [each for each in outcomes if isinstance(each, Exception)]
        equal(strange, [], "what appends raised")
    records, _ = await read_all(stores[0], stream_id)
    landed = [int(record.data[:3]) for record in records[::3]]
    expected = [b"%03d%s" % (number, part) for number in landed for part in PARTS]
    equal([record.data for record in records], expected, "records, in whole appends")
    equal(len(landed), len(set(landed)), "appends that landed once")
    equal(sorted(done - set(landed)), [], "appends that returned but are not there")
    await is_healthy(stores[0], harness)
    await is_healthy(stores[1], harness)


@check(9)
async def check_a_storm_of_cancelled_reads(harness: Harness) -> None:
    """Cancelled reads, infos, waits and lists leave the store healthy and the stream as it
    was."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"x" * 1000, b"y" * 1000)

    async def list_all() -> list[StreamInfo]:
        if "list" not in store.capabilities:
            return []
        return [each async for each in store.list(harness.prefix)]

    for steps in range(12):
        calls: list[Coroutine[Any, Any, Any]] = []
        for _ in range(8):
            calls += [
                store.read(stream_id, 5),
                store.info(stream_id),
                store.wait(stream_id, version=info.version, timeout=600),
                list_all(),
                store.expire(stream_id, 1000),
                store.sweep(limit=1),
            ]
        together = asyncio.gather(*(cancel_after(steps, call) for call in calls))
        await within(5 * PATIENCE.prompt, together, "the end of cancelled calls")
    await is_healthy(store, harness)
    equal((await store.info(stream_id)).version, info.version, "version")
    equal(len(await content(store, stream_id)), 2000, "bytes")


@check(9)
async def check_a_cancelled_wait_hurts_no_other(harness: Harness) -> None:
    """The remaining waiters still wake after others were cancelled."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    waiters = [
        harness.start(store.wait(stream_id, version=info.version, timeout=600))
        for _ in range(40)
    ]
    await asyncio.sleep(0.02)
    for waiter in waiters[::2]:
        waiter.cancel()
    changed = await store.append(stream_id, b"x")
    infos = await within(PATIENCE.prompt, asyncio.gather(*waiters[1::2]), "the other waiters")
    equal({each.version for each in infos}, {changed.version}, "versions seen")
    await within(PATIENCE.prompt, asyncio.wait(waiters[::2]), "the end of the cancelled ones")
    equal([waiter.cancelled() for waiter in waiters[::2]], [True] * 20, "cancelled waiters")


@check(9)
async def check_cancelled_deletes_and_expires(harness: Harness) -> None:
    """A cancelled delete leaves a whole stream or none."""
    store = await harness.open()
    for steps in range(12):
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc", b"def")
        await cancel_after(steps, store.delete(stream_id))
        left = await outcome(content(store, stream_id))
        if not isinstance(left, StreamNotFound):
            equal(left, b"abcdef", "bytes of a stream whose delete was cancelled")
            await outcome(store.delete(stream_id))
        await store.create(stream_id, b"new")
        equal(await content(store, stream_id), b"new", "bytes of the new stream")
    await is_healthy(store, harness)


@check(9)
async def check_an_abandoned_listing(harness: Harness) -> None:
    """A listing that is closed early gives its connection and locks back."""
    store = await harness.open()
    if "list" in store.capabilities:
        for _ in range(5):
            await store.create(harness.new_id())
        for _ in range(20):
            listing: Any = store.list(harness.prefix)
            await listing.__anext__()
            await listing.aclose()
    await is_healthy(store, harness)
