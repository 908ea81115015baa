"""Clause 4: waiting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

from streamstores.conformance.assertions import (
    PATIENCE,
    equal,
    outcome,
    raises,
    within,
)
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, StreamNotFound
from streamstores.store import State, StreamInfo, StreamStore

PAST = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)

Change = Callable[[StreamStore, str], Awaitable[StreamInfo]]

CHANGES: dict[str, Change] = {
    "append": lambda store, stream_id: store.append(stream_id, b"x"),
    "attributes": lambda store, stream_id: store.append(stream_id, attributes={"a": "b"}),
    "heartbeat": lambda store, stream_id: store.append(stream_id),
    "stop": lambda store, stream_id: store.mark_done(stream_id, "stopped"),
    "done": lambda store, stream_id: store.append(stream_id, b"!", state="done"),
    "error": lambda store, stream_id: store.mark_done(stream_id, "error", error="no"),
}


def bound(waiting: StreamStore, changing: StreamStore) -> float:
    """How many seconds a wake-up may take.

    A change by the same store object cannot be missed, because it needs no notification. A
    change by another store object may take a `poll_interval` longer.
    """
    if waiting is changing:
        return PATIENCE.prompt
    return PATIENCE.prompt + waiting.limits.poll_interval


async def is_woken_by(
    harness: Harness, waiting: StreamStore, changing: StreamStore, name: str
) -> None:
    """Check that the named change wakes a waiter, which sees the changed stream."""
    stream_id = harness.new_id()
    created = await changing.create(stream_id)
    waiter = harness.start(waiting.wait(stream_id, version=created.version, timeout=600))
    # Gives the waiter time to begin. If it begins later, it must return at once all the same,
    # so the check is right on a slow machine too.
    await asyncio.sleep(0.02)
    changed = await CHANGES[name](changing, stream_id)
    info = await within(bound(waiting, changing), waiter, f"wait, after {name}")
    equal(info, changed, f"what the waiter sees after {name}")


@check(4)
async def check_wakes_on_append(harness: Harness) -> None:
    """A waiter wakes at once when its own store object appends."""
    store = await harness.open()
    await is_woken_by(harness, store, store, "append")
    await is_woken_by(harness, store, store, "heartbeat")


@check(4)
async def check_wakes_on_attributes(harness: Harness) -> None:
    """A waiter wakes at once when attributes change."""
    store = await harness.open()
    await is_woken_by(harness, store, store, "attributes")


@check(4)
async def check_wakes_on_change_of_state(harness: Harness) -> None:
    """A waiter wakes at once on stop, done and error."""
    store = await harness.open()
    for name in ("stop", "done", "error"):
        await is_woken_by(harness, store, store, name)


@check(4, "multi_process")
async def check_wakes_on_changes_of_another_store(harness: Harness) -> None:
    """A waiter wakes when another store object changes the stream, within poll_interval."""
    store, other = await harness.open(), await harness.open()
    await asyncio.gather(*(is_woken_by(harness, store, other, name) for name in CHANGES))


@check(4)
async def check_returns_at_once_if_the_version_differs(harness: Harness) -> None:
    """Given any other version, older, newer or absurd, wait returns the info at once."""
    store = await harness.open()
    stream_id = harness.new_id()
    created = await store.create(stream_id)
    info = await store.append(stream_id, b"x", state="done")
    # The last two are more than an integer of 64 bits holds, and no reason for an error of a
    # driver.
    for version in (created.version, info.version + 1, 0, 1, 2**63 - 1, 2**63, 10**30):
        waiting = store.wait(stream_id, version=version, timeout=600)
        seen = await within(PATIENCE.prompt, waiting, f"wait(version={version})")
        equal(seen, info, f"wait(version={version})")


@check(4)
async def check_returns_the_info_at_timeout(harness: Harness) -> None:
    """Without a change, wait returns the current info at its timeout; with 0, at once."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"x")
    for timeout in (0, 0.0, 0.05):
        waiting = store.wait(stream_id, version=info.version, timeout=timeout)
        seen = await within(PATIENCE.prompt, waiting, f"wait(timeout={timeout})")
        equal(seen, info, f"wait(timeout={timeout})")


@check(4)
async def check_no_change_is_slept_through(harness: Harness) -> None:
    """A waiter learns of a change however the wait and the change interleave."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    for number in range(60):
        waiter = harness.start(store.wait(stream_id, version=info.version, timeout=600))
        # So that the change comes before, during and after the subscription and the first look.
        for _ in range(number % 6):
            await asyncio.sleep(0)
        changer = other if number % 2 else store
        changed = await changer.append(stream_id)
        seen = await within(bound(store, changer), waiter, f"wait in round {number}")
        equal(seen.version, changed.version, f"version in round {number}")
        info = changed


@check(4)
async def check_every_waiter_wakes(harness: Harness) -> None:
    """A change wakes every waiter of its stream and no waiter of another stream."""
    store = await harness.open()
    stream_id, bystander = harness.new_id(), harness.new_id()
    created, quiet = await store.create(stream_id), await store.create(bystander)
    waiters = [
        harness.start(store.wait(stream_id, version=created.version, timeout=600))
        for _ in range(100)
    ]
    other = harness.start(store.wait(bystander, version=quiet.version, timeout=600))
    await asyncio.sleep(0.05)
    changed = await store.append(stream_id, b"x")
    infos = await within(PATIENCE.prompt, asyncio.gather(*waiters), "100 waiters")
    equal(set(map(info_key, infos)), {info_key(changed)}, "what they see")
    assert not other.done(), "the waiter of another stream woke"


def info_key(info: StreamInfo) -> tuple[str, int, int]:
    return info.id, info.version, info.tail


@check(4)
async def check_wait_follows_a_stream_to_its_end(harness: Harness) -> None:
    """A caller that waits again and again with the last version it saw sees the final state."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)

    async def write() -> None:
        for _ in range(40):
            await other.append(stream_id, b"x")
            await asyncio.sleep(0)
        await other.mark_done(stream_id)

    writing = harness.start(write())
    while info.state is State.STREAMING:
        waiting = store.wait(stream_id, version=info.version, timeout=600)
        seen = await within(bound(store, other), waiting, "wait")
        assert seen.version >= info.version, "the version went back"
        info = seen
    await writing
    equal((info.tail, info.state), (40, State.DONE), "the end")


@check(4)
async def check_wait_raises_when_the_stream_is_deleted(harness: Harness) -> None:
    """A waiter gets StreamNotFound when any store object deletes the stream."""
    store, other = await harness.open(), await harness.open()
    for changer in (store, other):
        stream_id = harness.new_id()
        info = await store.create(stream_id)
        waiter = harness.start(
            outcome(store.wait(stream_id, version=info.version, timeout=600))
        )
        await asyncio.sleep(0.02)
        await changer.delete(stream_id)
        result = await within(bound(store, changer), waiter, "wait, after delete")
        equal(type(result), StreamNotFound, "outcome of the wait")


@check(4)
async def check_wait_raises_when_the_stream_is_expired(harness: Harness) -> None:
    """A waiter gets StreamNotFound when any store object expires the stream."""
    store, other = await harness.open(), await harness.open()
    for changer in (store, other):
        stream_id = harness.new_id()
        info = await store.create(stream_id)
        waiter = harness.start(
            outcome(store.wait(stream_id, version=info.version, timeout=600))
        )
        await asyncio.sleep(0.02)
        await changer.expire(stream_id, expires_at=PAST)
        result = await within(bound(store, changer), waiter, "wait, after expire")
        equal(type(result), StreamNotFound, "outcome of the wait")


@check(4)
async def check_wait_raises_when_the_ttl_runs_out(harness: Harness) -> None:
    """A waiter gets StreamNotFound when the ttl of its stream runs out."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, ttl=1)
    waiter = outcome(store.wait(stream_id, version=info.version, timeout=600))
    seconds = 2 + PATIENCE.prompt + store.limits.poll_interval
    result = await within(seconds, waiter, "wait, after its ttl")
    equal(type(result), StreamNotFound, "outcome of the wait")


@check(4)
async def check_wait_refuses_nonsense(harness: Harness) -> None:
    """A version or timeout of a wrong type or sign raises InvalidRequest; infinity is valid."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    for timeout in (-1, -0.1, math.nan, "1", None):
        with raises(InvalidRequest, f"timeout {timeout!r}"):
            await store.wait(stream_id, version=0, timeout=timeout)  # type: ignore[arg-type]  # on purpose
    for version in (-1, "1", 1.0, None):
        with raises(InvalidRequest, f"version {version!r}"):
            await store.wait(stream_id, version=version, timeout=0)  # type: ignore[arg-type]  # on purpose
    waiter = harness.start(store.wait(stream_id, version=info.version, timeout=math.inf))
    await asyncio.sleep(0.02)
    await store.append(stream_id)
    await within(PATIENCE.prompt, waiter, "wait with an infinite timeout")
