"""Clause 7: expiry."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from streamstores.conformance.assertions import (
    NO_ATTRIBUTES,
    Call,
    content,
    equal,
    eventually,
    outcome,
    raises,
)
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, InvalidRequest, StreamExists, StreamNotFound
from streamstores.store import StreamInfo, StreamStore

PAST = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
# In a timezone with half an hour, which a store that drops the zone would be off by.
FUTURE = datetime(2198, 7, 6, 5, 4, 3, tzinfo=timezone(timedelta(hours=5, minutes=30)))
# Its time since 1970 is negative.
LONG_PAST = datetime(1, 1, 2, tzinfo=timezone.utc)
FAR_FUTURE = datetime(9999, 12, 30, 23, 59, 59, tzinfo=timezone.utc)


async def is_gone(store: StreamStore, stream_id: str) -> bool:
    return isinstance(await outcome(store.info(stream_id)), StreamNotFound)


async def every_operation_finds_nothing(store: StreamStore, stream_id: str) -> None:
    """Check that each operation raises `StreamNotFound`."""
    calls: dict[str, Call] = {
        "info": lambda: store.info(stream_id),
        "read": lambda: store.read(stream_id),
        "read from 99": lambda: store.read(stream_id, 99),
        "append": lambda: store.append(stream_id, b"x"),
        "append at 3": lambda: store.append(stream_id, b"x", at=3),
        "heartbeat": lambda: store.append(stream_id),
        "mark_done": lambda: store.mark_done(stream_id),
        "wait": lambda: store.wait(stream_id, version=0, timeout=600),
        "expire": lambda: store.expire(stream_id),
        "expire with ttl": lambda: store.expire(stream_id, 1000),
        "delete": lambda: store.delete(stream_id),
    }
    for name, call in calls.items():
        with raises(StreamNotFound, f"{name} of an expired stream"):
            await call()


@check(7)
async def check_an_expired_stream_never_existed(harness: Harness) -> None:
    """From expires_at on, every operation of any store object raises StreamNotFound."""
    store, other = await harness.open(), await harness.open()
    for state in ("streaming", "stopped", "done"):
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc", state=state)
        await store.expire(stream_id, expires_at=PAST)
        await every_operation_finds_nothing(store, stream_id)
        await every_operation_finds_nothing(other, stream_id)


@check(7)
async def check_a_stream_can_be_created_expired(harness: Harness) -> None:
    """create with an expires_at in the past succeeds, and the stream is gone at once."""
    store = await harness.open()
    for moment in (PAST, LONG_PAST, datetime(1970, 1, 1, tzinfo=timezone.utc)):
        stream_id = harness.new_id()
        info = await store.create(stream_id, b"abc", expires_at=moment)
        equal((info.id, info.tail, info.expires_at), (stream_id, 3, moment), "result")
        await every_operation_finds_nothing(store, stream_id)


@check(7)
async def check_an_expired_id_can_be_created_anew(harness: Harness) -> None:
    """The id of an expired stream can be created anew, whether or not sweep has run."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    for number in range(4):
        await store.create(stream_id, b"old%d" % number, attributes={"a": "b"})
        with raises(StreamExists, "create of the living id"):
            await other.create(stream_id)
        await store.expire(stream_id, expires_at=PAST)
        if number % 2:
            await other.sweep()
    info = await other.create(stream_id, b"new")
    equal(
        (info.tail, dict(info.attributes), info.ttl, info.expires_at),
        (3, NO_ATTRIBUTES, None, None),
        "new",
    )
    equal(await content(store, stream_id), b"new", "bytes")


@check(7)
async def check_a_ttl_runs_out_by_itself(harness: Harness) -> None:
    """A stream with a ttl of one second is gone after that for all stores, without a sweep."""
    store, other = await harness.open(), await harness.open()
    stream_id, kept = harness.new_id(), harness.new_id()
    await store.create(stream_id, b"abc", ttl=1)
    await store.create(kept, b"abc", ttl=1000)
    await eventually(lambda: is_gone(store, stream_id), "the stream has expired")
    await every_operation_finds_nothing(other, stream_id)
    equal((await other.info(kept)).tail, 3, "tail of a stream with a longer ttl")
    await other.create(stream_id, b"new")
    equal(await content(store, stream_id), b"new", "bytes of the new stream")


@check(7)
async def check_an_absolute_expiry_takes_effect(harness: Harness) -> None:
    """A stream whose expires_at is a second ahead expires in spite of mutations."""
    store = await harness.open()
    stream_id = harness.new_id()
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    await store.create(stream_id, b"abc", expires_at=soon)

    async def is_gone_in_spite_of_appends() -> bool:
        return isinstance(await outcome(store.append(stream_id, b"x")), StreamNotFound)

    await eventually(is_gone_in_spite_of_appends, "the stream has expired")


@check(7)
async def check_create_sets_the_expiry(harness: Harness) -> None:
    """create takes a ttl or an expires_at, and info returns both."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, ttl=500.5)
    equal(info.ttl, 500.5, "ttl")
    assert info.expires_at is not None, "expires_at is None beside a ttl"
    off = abs((info.expires_at - info.created_at).total_seconds() - 500.5)
    assert off <= 1, f"expires_at is {off} seconds off created_at + ttl"
    equal(await store.info(stream_id), info, "info")
    for moment in (FUTURE, FAR_FUTURE):
        stream_id = harness.new_id()
        info = await store.create(stream_id, expires_at=moment)
        equal((info.ttl, info.expires_at), (None, moment), "ttl and expires_at")
        equal(await store.info(stream_id), info, "info")
    stream_id = harness.new_id()
    info = await store.create(stream_id, ttl=100 * 365 * 86_400)
    equal((await store.info(stream_id)).ttl, 100 * 365 * 86_400, "the longest ttl")


Mutate = Callable[[StreamStore, str], Awaitable[StreamInfo]]
SLIDING: dict[str, Mutate] = {
    "append": lambda store, stream_id: store.append(stream_id, b"x"),
    "heartbeat": lambda store, stream_id: store.append(stream_id),
    "attributes": lambda store, stream_id: store.append(stream_id, attributes={"a": "b"}),
    "stop": lambda store, stream_id: store.mark_done(stream_id, "stopped"),
    "reopen": lambda store, stream_id: store.append(stream_id, state="streaming"),
    "last word": lambda store, stream_id: store.append(stream_id, b"!", state="done"),
}


@check(7)
async def check_every_mutation_slides_the_expiry(harness: Harness) -> None:
    """With a ttl, each mutation moves expires_at; reads and no-ops do not."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, ttl=1000)
    for name, mutate in SLIDING.items():
        await asyncio.sleep(0.02)
        slid = await mutate(store, stream_id)
        assert slid.expires_at is not None, f"expires_at is None after {name}"
        assert info.expires_at is not None
        assert slid.expires_at > info.expires_at, f"{name} did not move expires_at"
        equal(slid.ttl, 1000.0, "ttl")
        info = slid
    await asyncio.sleep(0.02)
    await store.read(stream_id)
    await store.wait(stream_id, version=info.version, timeout=0)
    await store.mark_done(stream_id)
    equal(await store.info(stream_id), info, "info after reads and a no-op")


async def stays_alive(store: StreamStore, stream_id: str) -> bool:
    """Send heartbeats for 1.5 seconds to a stream with a ttl of 1 second.

    False if this machine was too slow to send them in time, so that nothing is shown.
    """
    await store.create(stream_id, b"abc", ttl=1)
    begin = last = time.monotonic()
    while time.monotonic() < begin + 1.5:
        await asyncio.sleep(0.1)
        result = await outcome(store.append(stream_id))
        if isinstance(result, StreamNotFound):
            gap = time.monotonic() - last
            assert gap > 0.9, f"a stream with ttl=1 expired {gap:.2f} seconds after a mutation"
            return False
        assert isinstance(result, StreamInfo), f"the heartbeat gave {result!r}"
        last = time.monotonic()
    return True


@check(7)
async def check_a_sliding_stream_lives_on(harness: Harness) -> None:
    """A stream does not expire while it is mutated more often than its ttl; then it does."""
    store = await harness.open()
    for _ in range(5):
        stream_id = harness.new_id()
        if await stays_alive(store, stream_id):
            await eventually(partial(is_gone, store, stream_id), "the stream has expired")
            return
    raise AssertionError("this machine is too busy for a mutation every 0.9 seconds")


@check(7)
async def check_mutations_do_not_move_an_absolute_expiry(harness: Harness) -> None:
    """An expires_at that was set is not changed by any mutation."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, expires_at=FUTURE)
    for name, mutate in SLIDING.items():
        info = await mutate(store, stream_id)
        equal((info.ttl, info.expires_at), (None, FUTURE), f"expiry after {name}")
    equal((await store.info(stream_id)).expires_at, FUTURE, "expires_at")


@check(7)
async def check_a_stream_without_expiry_is_kept(harness: Harness) -> None:
    """Mutations of a stream without an expiry give it none."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    for name, mutate in SLIDING.items():
        info = await mutate(store, stream_id)
        equal((info.ttl, info.expires_at), (None, None), f"expiry after {name}")


@check(7)
async def check_expire_replaces_the_expiry(harness: Harness) -> None:
    """expire replaces the expiry by a ttl, an expires_at or none."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    created = await store.create(stream_id, b"abc", ttl=1000)
    info = await store.expire(stream_id, 5000)
    equal(info.ttl, 5000.0, "ttl")
    assert info.expires_at is not None, "expires_at is None beside a ttl"
    assert created.expires_at is not None
    moved = (info.expires_at - created.expires_at).total_seconds()
    assert 3999 <= moved <= 4060, f"expires_at moved by {moved} seconds"
    equal(await other.info(stream_id), info, "info")
    info = await other.expire(stream_id, expires_at=FUTURE)
    equal((info.ttl, info.expires_at), (None, FUTURE), "absolute expiry")
    equal(await store.info(stream_id), info, "info")
    info = await store.expire(stream_id)
    equal((info.ttl, info.expires_at), (None, None), "no expiry")
    info = await store.append(stream_id, b"x")
    equal((info.ttl, info.expires_at), (None, None), "no expiry after a mutation")
    info = await store.expire(stream_id, ttl=2)
    slid = await store.append(stream_id, b"x")
    equal(slid.ttl, 2.0, "ttl after a mutation")


@check(7)
async def check_expire_can_keep_for_good(harness: Harness) -> None:
    """expire(id) saves a stream from its ttl; expire with a later expires_at does too."""
    store = await harness.open()
    kept, moved, lost = harness.new_id(), harness.new_id(), harness.new_id()
    for stream_id in (kept, moved, lost):
        await store.create(stream_id, b"abc", ttl=1)
    await store.expire(kept)
    await store.expire(moved, expires_at=FUTURE)
    await eventually(lambda: is_gone(store, lost), "the stream beside them has expired")
    await store.sweep()
    for stream_id in (kept, moved):
        equal(await content(store, stream_id), b"abc", "bytes of a stream that was kept")


@check(7)
async def check_expire_leaves_the_version_alone(harness: Harness) -> None:
    """expire changes only the expiry: not the version, so it causes no Conflict."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc", attributes={"a": "b"})
    changes: list[dict[str, Any]] = [{"ttl": 1000}, {"expires_at": FUTURE}, {}]
    for options in changes:
        result = await store.expire(stream_id, **options)
        same = result._replace(ttl=None, expires_at=None)
        equal(same, info, f"all but the expiry, after expire({options})")
    await store.append(stream_id, b"x", version=info.version)


@check(7)
async def check_expire_works_in_every_state(harness: Harness) -> None:
    """A stopped or closed stream can be given another expiry, and keeps its state."""
    store = await harness.open()
    for state in ("stopped", "done", "error"):
        stream_id = harness.new_id()
        info = await store.create(stream_id, b"abc", state=state)
        result = await store.expire(stream_id, 1000)
        equal((result.state, result.version), (info.state, info.version), "state and version")
        equal(result.ttl, 1000.0, "ttl")


@check(7)
async def check_expire_wakes_no_waiter(harness: Harness) -> None:
    """An expire to a time in the future wakes no waiter."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    waiters = [
        harness.start(store.wait(stream_id, version=info.version, timeout=600))
        for _ in range(5)
    ]
    await asyncio.sleep(0.02)
    for number in range(10):
        await store.expire(stream_id, 1000 + number)
    await store.expire(stream_id)
    await asyncio.sleep(0.05)
    equal([waiter.done() for waiter in waiters], [False] * 5, "waiters that woke")


@check(7)
async def check_expire_in_the_past_takes_effect_at_once(harness: Harness) -> None:
    """After expire with any time in the past the stream is gone, for good."""
    store = await harness.open()
    recent = datetime.now(timezone.utc) - timedelta(seconds=2)
    for moment in (recent, PAST, datetime(1970, 1, 1, tzinfo=timezone.utc), LONG_PAST):
        stream_id = harness.new_id()
        info = await store.create(stream_id, b"abc", ttl=1000)
        result = await store.expire(stream_id, expires_at=moment)
        equal((result.id, result.version), (stream_id, info.version), "result")
        await every_operation_finds_nothing(store, stream_id)


@check(7)
async def check_a_version_from_before_expiry_never_matches(harness: Harness) -> None:
    """A version of an expired stream is a Conflict after its id was created anew."""
    store = await harness.open()
    stream_id = harness.new_id()
    old = await store.create(stream_id, expires_at=PAST)
    await store.create(stream_id)
    with raises(Conflict, "an append with the version of the expired stream"):
        await store.append(stream_id, b"zombie", version=old.version)


@check(7)
async def check_sweep_removes_only_what_expired(harness: Harness) -> None:
    """sweep removes at most limit expired streams, and returns 0 once none is left."""
    store = await harness.open()
    living = [harness.new_id() for _ in range(5)]
    for number, stream_id in enumerate(living):
        await store.create(stream_id, b"abc", ttl=1000 if number % 2 else None)
    expired = [harness.new_id() for _ in range(7)]
    for stream_id in expired:
        await store.create(stream_id, b"abc", expires_at=PAST)
    swept = await store.sweep(limit=3)
    assert type(swept) is int, f"sweep returned {swept!r}"
    # Not exactly 3, because the store's own sweep may have been there first.
    assert 0 <= swept <= 3, f"sweep(limit=3) returned {swept}"

    async def nothing_is_left() -> bool:
        return await store.sweep() == 0

    await eventually(nothing_is_left, "sweep returns 0")
    for stream_id in living:
        equal(await content(store, stream_id), b"abc", "bytes of a living stream")
    for stream_id in expired:
        await every_operation_finds_nothing(store, stream_id)


@check(7)
async def check_expiry_refuses_nonsense(harness: Harness) -> None:
    """Impossible values of ttl and expires_at raise InvalidRequest in create and expire."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc")
    wrong: list[dict[str, Any]] = [
        *({"ttl": ttl} for ttl in (0, -1, 0.0, math.nan, math.inf, 1e12, "10", True)),
        {"ttl": 10, "expires_at": FUTURE},
        *({"expires_at": end} for end in ("2030-01-01", 1e9, datetime(2030, 1, 1))),
    ]
    for options in wrong:
        with raises(InvalidRequest, f"create with {options}"):
            await store.create(harness.new_id(), **options)
        with raises(InvalidRequest, f"expire with {options}"):
            await store.expire(stream_id, **options)
    for limit in (0, -1, 1.5, "9"):
        with raises(InvalidRequest, f"sweep with limit={limit!r}"):
            await store.sweep(limit=limit)  # type: ignore[arg-type]  # on purpose
    equal(await store.info(stream_id), info, "info after the refusals")


@check(7)
async def check_expires_at_may_be_anywhere_in_the_calendar(harness: Harness) -> None:
    """The first and last moments of any timezone are accepted, and stay readable."""
    store = await harness.open()
    west, east = timezone(timedelta(hours=-14)), timezone(timedelta(hours=14))
    for zone in (west, timezone.utc, east):
        info = await store.create(harness.new_id(), b"abc")
        kept = await store.expire(info.id, expires_at=datetime.max.replace(tzinfo=zone))
        assert kept.expires_at is not None, "expire lost expires_at"
        equal(kept.expires_at.year, 9999, "the year in which the stream expires")
        equal(await store.info(info.id), kept, "info")
        await store.expire(info.id, expires_at=datetime.min.replace(tzinfo=zone))
        equal(await is_gone(store, info.id), True, "a stream that expired is gone")
        again = await store.create(info.id, expires_at=datetime.max.replace(tzinfo=zone))
        equal(await store.info(info.id), again, "info of a stream created so")
