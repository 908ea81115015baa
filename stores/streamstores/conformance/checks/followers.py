"""Clause 5: following, insofar as it depends on the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from streamstores.conformance.assertions import (
    PATIENCE,
    content,
    equal,
    eventually,
    outcome,
    raises,
    tile,
    within,
)
from streamstores.conformance.checks.waits import PAST, bound
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import OffsetOutOfRange, ProducerLost, StreamNotFound
from streamstores.follow import Follower, follow
from streamstores.store import Record, State, StreamStore


async def everything(follower: Follower) -> list[Record]:
    """What the follower yields until its normal end, checked for gaps."""
    start = follower.offset
    records = [record async for record in follower]
    equal(tile(records, start, "followed records"), follower.offset, "the follower's offset")
    return records


def data_of(records: list[Record]) -> bytes:
    return b"".join(record.data for record in records)


async def wait_until_live(store: StreamStore, stream_id: str, follower: Follower) -> None:
    """Append a record and wait for the follower to yield it: now it follows live."""
    await store.append(stream_id, b"live")
    record = await within(bound(store, store), follower.__anext__(), "the first live record")
    equal(record.data, b"live", "the first live record")


@check(5)
async def check_follow_replays_and_goes_on_live(harness: Harness) -> None:
    """A follower yields the records that exist, then new ones, and ends with the stream."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"old", b"er")
    follower = follow(store, stream_id)
    following = harness.start(everything(follower))
    await asyncio.sleep(0.02)
    for number in range(20):
        await store.append(stream_id, b"%02d" % number)
        await asyncio.sleep(0)
    info = await store.append(stream_id, b"end", state="done")
    records = await within(bound(store, store), following, "the follower's end")
    expected = [b"old", b"er", *(b"%02d" % number for number in range(20)), b"end"]
    equal([record.data for record in records], expected, "records")
    equal(follower.info, info, "follower.info")


@check(5)
async def check_follow_through_another_store(harness: Harness) -> None:
    """A follower sees everything that another store object appends, and its final state."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"begin")
    following = harness.start(everything(follow(other, stream_id)))
    whole = b"begin"
    for number in range(25):
        chunks = [b"%02d," % number, b"."][: number % 2 + 1]
        await store.append(stream_id, *chunks)
        whole += b"".join(chunks)
        await asyncio.sleep(0.001 * (number % 3))
    await store.mark_done(stream_id)
    seconds = 2 * bound(other, store)
    equal(data_of(await within(seconds, following, "the follower")), whole, "bytes")


@check(5)
async def check_follow_from_every_offset(harness: Harness) -> None:
    """A follower may begin anywhere up to the tail, inside a record too."""
    store = await harness.open()
    stream_id = harness.new_id()
    whole = b"abcdefghij"
    await store.create(stream_id, whole[:1], whole[1:5], whole[5:7])
    followers = [follow(store, stream_id, offset) for offset in range(8)]
    following = [harness.start(everything(follower)) for follower in followers]
    await asyncio.sleep(0.02)
    await store.append(stream_id, whole[7:], state="done")
    for offset, each in enumerate(following):
        records = await within(bound(store, store), each, f"the follower from {offset}")
        equal(data_of(records), whole[offset:], f"bytes from {offset}")
    for offset in range(len(whole) + 1):
        records = await everything(follow(store, stream_id, offset))
        equal(data_of(records), whole[offset:], f"bytes of the finished stream from {offset}")


@check(5)
async def check_follow_ends_with_every_end_state(harness: Harness) -> None:
    """A follower ends normally on "stopped", "done" and "error"; its info has the state."""
    store, other = await harness.open(), await harness.open()
    for state in (State.STOPPED, State.DONE, State.ERROR):
        for ender in (store, other):
            stream_id = harness.new_id()
            await store.create(stream_id, b"abc")
            follower = follow(store, stream_id)
            following = harness.start(everything(follower))
            await asyncio.sleep(0.02)
            error = "why" if state is State.ERROR else None
            info = await ender.mark_done(stream_id, state, error=error)
            records = await within(bound(store, ender), following, f"its end, {state}")
            equal(data_of(records), b"abc", "bytes")
            equal(follower.info, info, "follower.info")


@check(5)
async def check_follow_of_a_last_append_of_many_pages(harness: Harness) -> None:
    """A live follower yields all of a last append that takes several reads, then ends."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    follower = follow(other, stream_id)
    await wait_until_live(other, stream_id, follower)
    following = harness.start(everything(follower))
    await asyncio.sleep(0.02)
    # A follower that takes the final state for the end would stop after the first page.
    size = min(store.limits.record_bytes, 1_048_576)
    chunks = [bytes([number]) * size for number in range(3)]
    info = await store.append(stream_id, *chunks, state="done")
    seconds = 2 * bound(other, store) + PATIENCE.prompt
    records = await within(seconds, following, "the follower's end")
    equal([record.data for record in records], chunks, "records")
    equal(follower.info, info, "follower.info")


@check(5)
async def check_follow_of_a_closed_stream(harness: Harness) -> None:
    """A follower of a stopped or closed stream yields its bytes, if any, and ends."""
    store = await harness.open()
    for state in (State.STOPPED, State.DONE, State.ERROR):
        for chunks in ((), (b"x", b"yz")):
            stream_id = harness.new_id()
            await store.create(stream_id, *chunks, state=state)
            follower = follow(store, stream_id)
            records = await within(PATIENCE.prompt, everything(follower), f"its end, {state}")
            equal([record.data for record in records], list(chunks), "records")
            assert follower.info is not None, "follower.info is None after the end"
            equal(follower.info.state, state, "follower.info.state")


@check(5)
async def check_follow_goes_on_after_a_reopening(harness: Harness) -> None:
    """A stream that was stopped and reopened can be followed on from the reader's offset."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"one")
    stopped = await store.mark_done(stream_id, "stopped")
    first = follow(store, stream_id)
    equal(data_of(await everything(first)), b"one", "until the stop")
    await store.append(stream_id, b"two", state="streaming", version=stopped.version)
    following = harness.start(everything(follow(store, stream_id, first.offset)))
    await asyncio.sleep(0.02)
    await store.append(stream_id, b"three", state="done")
    records = await within(bound(store, store), following, "the second follower")
    equal(data_of(records), b"twothree", "after the stop")


@check(5)
async def check_many_followers(harness: Harness) -> None:
    """Fifty followers that join at different times each get every byte once."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    following: list[tuple[int, asyncio.Task[list[Record]]]] = []
    whole = b""
    for number in range(50):
        follower = follow(other if number % 5 == 0 else store, stream_id, len(whole) // 2)
        following.append((follower.offset, harness.start(everything(follower))))
        await store.append(stream_id, b"<%d>" % number)
        whole += b"<%d>" % number
        await asyncio.sleep(0)
    await store.mark_done(stream_id)
    for offset, each in following:
        records = await within(2 * bound(other, store), each, f"the follower from {offset}")
        equal(data_of(records), whole[offset:], f"bytes from {offset}")


@check(5)
async def check_a_slow_follower_loses_nothing(harness: Harness) -> None:
    """A follower that pauses for megabytes delays no other and then gets every byte."""
    store = await harness.open()
    stream_id = harness.new_id()
    # Sixteen of these are more than a shared reader keeps, so that the slow follower has to
    # read for itself.
    size = min(262_144, store.limits.record_bytes)
    await store.create(stream_id, b"begin")
    slow, quick = follow(store, stream_id), follow(store, stream_id)
    equal((await slow.__anext__()).data, b"begin", "first record")
    await wait_until_live(store, stream_id, slow)
    following = harness.start(everything(quick))
    chunks = [bytes([65 + number]) * size for number in range(16)]
    for chunk in chunks:
        await store.append(stream_id, chunk)
    await store.mark_done(stream_id)
    whole = b"".join(chunks)
    records = await within(bound(store, store) * 3, following, "the quick follower")
    equal(data_of(records) == b"beginlive" + whole, True, "bytes of the quick follower match")
    rest = await within(bound(store, store) * 3, everything(slow), "the slow follower")
    equal(data_of(rest) == whole, True, "bytes of the slow follower match")


@check(5)
async def check_follow_beyond_the_tail(harness: Harness) -> None:
    """An offset beyond the tail raises OffsetOutOfRange, while streaming and after."""
    store = await harness.open()
    for state in ("streaming", "stopped", "done"):
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc", state=state)
        for offset in (4, 2**40, 10**30):
            with raises(OffsetOutOfRange, f"follow from {offset}, {state}") as caught:
                await within(
                    PATIENCE.prompt, everything(follow(store, stream_id, offset)), "it"
                )
            equal(caught.error.tail, 3, "OffsetOutOfRange.tail")


Vanish = Callable[[StreamStore, str], Awaitable[Any]]


async def recreate(store: StreamStore, stream_id: str) -> None:
    await store.delete(stream_id)
    await store.create(stream_id, b"another stream", state="done")


async def recreate_shorter(store: StreamStore, stream_id: str) -> None:
    await store.delete(stream_id)
    # Shorter than the follower's offset: its next read raises OffsetOutOfRange, which must not
    # reach its caller.
    await store.create(stream_id, b"x", state="done")


VANISHING: dict[str, Vanish] = {
    "delete": lambda store, stream_id: store.delete(stream_id),
    "expire": lambda store, stream_id: store.expire(stream_id, expires_at=PAST),
    "create anew": recreate,
    "create anew, shorter": recreate_shorter,
}


@check(5)
async def check_a_vanished_stream_never_looks_finished(harness: Harness) -> None:
    """A live follower gets StreamNotFound when its stream is deleted or expires."""
    store, other = await harness.open(), await harness.open()
    for name, vanish in VANISHING.items():
        for ender in (store, other):
            stream_id = harness.new_id()
            await store.create(stream_id)
            follower = follow(store, stream_id)
            await harness.start(wait_until_live(store, stream_id, follower))
            step = harness.start(outcome(follower.__anext__()))
            await asyncio.sleep(0.02)
            await vanish(ender, stream_id)
            result = await within(bound(store, ender), step, f"the follower, after {name}")
            equal(type(result), StreamNotFound, f"outcome of the next step after {name}")


@check(5)
async def check_a_stream_that_vanishes_in_replay(harness: Harness) -> None:
    """A follower in the middle of its replay gets StreamNotFound when the stream is gone."""
    store = await harness.open()
    size = store.limits.record_bytes
    for name, vanish in VANISHING.items():
        stream_id = harness.new_id()
        await store.create(stream_id, b"x" * size, b"y" * size, b"z", state="done")
        follower = follow(store, stream_id)
        equal(len((await follower.__anext__()).data), size, "first record")
        await vanish(store, stream_id)
        with raises(StreamNotFound, f"the rest of the replay after {name}"):
            await within(PATIENCE.prompt, everything(follower), "the rest")


@check(5)
async def check_a_stream_whose_ttl_runs_out_never_looks_finished(harness: Harness) -> None:
    """A follower of a stream whose ttl runs out gets StreamNotFound."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc", ttl=1)
    following = outcome(everything(follow(store, stream_id)))
    seconds = 2 + PATIENCE.prompt + store.limits.poll_interval
    equal(type(await within(seconds, following, "the follower")), StreamNotFound, "outcome")


@check(5)
async def check_follow_of_a_missing_stream(harness: Harness) -> None:
    """A follower of an id that never existed gets StreamNotFound at its first step."""
    store = await harness.open()
    stream_id = harness.new_id()
    for offset in (0, 5):
        with raises(StreamNotFound, f"follow from {offset}"):
            await within(PATIENCE.prompt, everything(follow(store, stream_id, offset)), "it")


@check(5)
async def check_a_dead_producer_is_noticed(harness: Harness) -> None:
    """A follower gets ProducerLost after producer_timeout seconds without a change."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"last words")
    follower = follow(store, stream_id, producer_timeout=0.3)
    equal((await follower.__anext__()).data, b"last words", "replayed record")
    result = await within(
        PATIENCE.prompt + store.limits.poll_interval,
        outcome(follower.__anext__()),
        "ProducerLost",
    )
    equal(type(result), ProducerLost, "outcome of the silence")
    assert isinstance(result, ProducerLost)
    equal(result.info, info, "ProducerLost.info")
    taken = await store.append(stream_id, b"!", version=result.info.version)
    equal(taken.tail, 11, "tail after a takeover")


@check(5)
async def check_heartbeats_prove_life(harness: Harness) -> None:
    """Heartbeats from any store object keep a follower from raising ProducerLost."""
    for _ in range(5):
        if await heartbeats_were_heard(harness):
            return
    raise AssertionError("this machine is too busy for a heartbeat every 0.8 seconds")


async def heartbeats_were_heard(harness: Harness) -> bool:
    """Send heartbeats for 1.6 seconds to a follower with a timeout of 1 second.

    False if this machine was too slow to send them in time, so that nothing is shown.
    """
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"thinking")
    longest_gap = 0.0
    follower = follow(store, stream_id, producer_timeout=1.0)
    following = harness.start(outcome(everything(follower)))
    last = begin = time.monotonic()
    while time.monotonic() < begin + 1.6 and not following.done():
        await other.append(stream_id)
        await asyncio.sleep(0.1)
        longest_gap = max(longest_gap, time.monotonic() - last)
        last = time.monotonic()
    if following.done() and longest_gap > 0.8:
        return False
    await outcome(other.mark_done(stream_id))
    result = await within(2 * bound(store, other), following, "the follower's end")
    assert isinstance(result, list), f"the follower ended with {result!r}"
    equal(data_of(result), b"thinking", "bytes")
    return True


@check(5)
async def check_a_cancelled_step_can_be_made_again(harness: Harness) -> None:
    """Cancelling a step of a follower loses no record and repeats none."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    follower = follow(store, stream_id)
    got = b""
    for number in range(40):
        step = harness.start(follower.batch())
        if number % 2:
            await store.append(stream_id, b"<%d>" % number)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        if step.done():
            got += data_of(step.result())
        else:
            step.cancel()
            await asyncio.wait([step])
            if not step.cancelled():
                got += data_of(step.result())
    await store.mark_done(stream_id)
    got += data_of(await within(bound(store, store), everything(follower), "its end"))
    equal(got, await content(store, stream_id), "bytes")


@check(5)
async def check_abandoned_followers_cost_nothing(harness: Harness) -> None:
    """Followers that were closed leave no task behind, whatever the number of streams."""
    store = await harness.open()
    before = len(asyncio.all_tasks())
    followers: list[Follower] = []
    for _ in range(20):
        info = await store.create(harness.new_id(), b"abc")
        followers += [follow(store, info.id) for _ in range(2)]
    for follower in followers:
        await follower.__anext__()
    for follower in followers:
        await follower.aclose()

    async def tasks_are_gone() -> bool:
        # From its first follower on, a store may listen for notices with a few tasks per
        # server of its cluster. A task for each of the twenty streams is too many.
        return len(asyncio.all_tasks()) <= before + 12

    await eventually(tasks_are_gone, "the followers' tasks have ended")
