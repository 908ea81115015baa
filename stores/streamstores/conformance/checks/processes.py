"""Clause 10: store objects in several processes behave like a single store."""

from __future__ import annotations

import asyncio

from streamstores.conformance.assertions import (
    content,
    equal,
    outcome,
    raises,
    read_all,
    within,
)
from streamstores.conformance.checks.waits import PAST, bound
from streamstores.conformance.harness import SECOND_PROCESS, Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, StreamClosed, StreamNotFound
from streamstores.follow import follow
from streamstores.store import State, StreamInfo

SECONDS = 60.0
"""A bound on exchanges with the other process, far above what they take."""


@check(10)
async def check_capabilities_are_declared(harness: Harness) -> None:
    """A store declares its capabilities as a frozenset of names."""
    capabilities = (await harness.open()).capabilities
    equal(type(capabilities), frozenset, "type of capabilities")
    equal(
        [each for each in capabilities if type(each) is not str], [], "names that are no text"
    )


@check(10, "multi_process")
async def check_two_stores_append_to_one_stream(harness: Harness) -> None:
    """Two store objects that append in turn, each at the tail it sees, make one stream."""
    stores = [await harness.open(), await harness.open()]
    assert stores[0] is not stores[1], "make_store gave the same object twice"
    stream_id = harness.new_id()
    await stores[0].create(stream_id)
    whole = b""
    for number in range(30):
        info = await stores[number % 2].append(stream_id, b"<%d>" % number, at=len(whole))
        whole += b"<%d>" % number
        equal(info.tail, len(whole), "tail")
    for store in stores:
        equal(await content(store, stream_id), whole, "bytes")


@check(10, "multi_process")
async def check_closing_one_store_leaves_the_other(harness: Harness) -> None:
    """Closing one of two store objects on a backend does not affect the other."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc")
    waiter = harness.start(store.wait(stream_id, version=info.version, timeout=600))
    await asyncio.sleep(0.02)
    await other.aclose()
    changed = await store.append(stream_id, b"def")
    equal(await within(bound(store, store), waiter, "the waiter"), changed, "what it sees")
    equal(await content(store, stream_id), b"abcdef", "bytes")


@check(10, "multi_process", SECOND_PROCESS)
async def check_another_process_sees_every_mutation(harness: Harness) -> None:
    """Each process sees at once what the other has done."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    info: StreamInfo = await store.create(stream_id, b"one", attributes={"a": "\x00"})
    equal(await process.call("info", stream_id), info, "info in the other process")
    for number in range(10):
        info = await process.call("append", stream_id, b"%d" % number, version=info.version)
        equal(await store.info(stream_id), info, "info here")
        info = await store.append(stream_id, b".", version=info.version)
        page = await process.call("read", stream_id, info.tail - 1)
        equal((page.info, page.records[0].data), (info, b"."), "page in the other process")
    await process.call("expire", stream_id, expires_at=PAST)
    with raises(StreamNotFound, "info here, after expire there"):
        await store.info(stream_id)
    await store.create(stream_id, b"new")
    equal((await process.call("info", stream_id)).tail, 3, "tail of the new stream, there")
    await store.delete(stream_id)
    with raises(StreamNotFound, "info there, after delete here"):
        await process.call("info", stream_id)


@check(10, "multi_process", SECOND_PROCESS)
async def check_two_processes_race_at_the_tail(harness: Harness) -> None:
    """Two processes that append at the tail they see lose nothing and double nothing."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    await store.create(stream_id)
    theirs = [b"<t%d>" % number for number in range(60)]
    ours = [b"<o%d>" % number for number in range(60)]
    bumping = process.start("bump", stream_id, theirs)
    for chunk in ours:
        while True:
            tail = (await store.info(stream_id)).tail
            if isinstance(await outcome(store.append(stream_id, chunk, at=tail)), StreamInfo):
                break
    await within(SECONDS, bumping, "the other process")
    records, _ = await read_all(store, stream_id)
    chunks = [record.data for record in records]
    equal([chunk for chunk in chunks if chunk in theirs], theirs, "their records, in order")
    equal([chunk for chunk in chunks if chunk in ours], ours, "our records, in order")
    equal(len(chunks), 120, "records")


@check(10, "multi_process", SECOND_PROCESS)
async def check_one_process_wins_a_takeover(harness: Harness) -> None:
    """Exactly one of two processes that take a stream over with the same version wins."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    for number in range(20):
        by = {"by": f"them {number}"}
        racing = process.start("append", stream_id, version=info.version, attributes=by)
        # Another head start in each round, so that either process may be first.
        for _ in range(number):
            await asyncio.sleep(0)
        ours = await outcome(
            store.append(stream_id, version=info.version, attributes={"by": "us"})
        )
        theirs = await outcome(within(SECONDS, racing, "the other process"))
        won = [each for each in (ours, theirs) if isinstance(each, StreamInfo)]
        equal(len(won), 1, f"winners of {ours!r} and {theirs!r}")
        equal(Conflict in (type(ours), type(theirs)), True, "the loser got Conflict")
        info = await store.info(stream_id)
        equal(info, won[0], "info after the race")


@check(10, "multi_process", SECOND_PROCESS)
async def check_one_process_wins_a_create(harness: Harness) -> None:
    """Exactly one of two processes that create the same id wins."""
    store, process = await harness.open(), await harness.second_process()
    for number in range(10):
        stream_id = harness.new_id()
        racing = process.start("create", stream_id, b"them")
        for _ in range(number):
            await asyncio.sleep(0)
        ours = await outcome(store.create(stream_id, b"us"))
        theirs = await outcome(within(SECONDS, racing, "the other process"))
        won = [each for each in (ours, theirs) if isinstance(each, StreamInfo)]
        equal(len(won), 1, f"winners of {ours!r} and {theirs!r}")
        winner = b"us" if isinstance(ours, StreamInfo) else b"them"
        equal(await content(store, stream_id), winner, "bytes")


@check(10, "multi_process", SECOND_PROCESS)
async def check_a_waiter_wakes_in_another_process(harness: Harness) -> None:
    """A waiter in each process learns of a change made by the other."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    seconds = bound(store, store) + store.limits.poll_interval
    for _ in range(3):
        there = process.start("wait", stream_id, version=info.version, timeout=600)
        await asyncio.sleep(0.05)
        info = await store.append(stream_id, b"x")
        equal(await within(seconds, there, "the waiter there"), info, "what it sees")
        here = harness.start(store.wait(stream_id, version=info.version, timeout=600))
        await asyncio.sleep(0.05)
        info = await process.call("append", stream_id, b"y")
        equal(await within(seconds, here, "the waiter here"), info, "what it sees")
    here = harness.start(store.wait(stream_id, version=info.version, timeout=600))
    await asyncio.sleep(0.05)
    await process.call("delete", stream_id)
    result = await outcome(within(seconds, here, "the waiter here, after delete there"))
    equal(type(result), StreamNotFound, "outcome of the wait")


@check(10, "multi_process", SECOND_PROCESS)
async def check_following_from_another_process(harness: Harness) -> None:
    """A follower in each process gets every byte of a producer in the other."""
    store, process = await harness.open(), await harness.second_process()
    first, second = harness.new_id(), harness.new_id()
    await store.create(first, b"begin")
    await store.create(second, b"begin")
    there = process.start("follow", first, 2)

    async def follow_here() -> list[bytes]:
        return [record.data async for record in follow(store, second)]

    here = harness.start(follow_here())
    chunks = [b"%d," % number for number in range(40)]
    for chunk in chunks:
        await store.append(first, chunk)
    await process.call("bump", second, chunks)
    await store.mark_done(first)
    await process.call("mark_done", second, "stopped")
    records = await within(SECONDS, there, "the follower there")
    equal([record.data for record in records], [b"gin", *chunks], "records there")
    equal(await within(SECONDS, here, "the follower here"), [b"begin", *chunks], "records here")


@check(10, "multi_process", SECOND_PROCESS)
async def check_a_stop_reaches_the_other_process(harness: Harness) -> None:
    """After one process has stopped a stream, no append of the other is acknowledged."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    await store.create(stream_id)
    # Far more than it can append before the stop.
    bumping = process.start("bump", stream_id, [b"x"] * 100_000)
    await store.append(stream_id, b"o")
    info = await store.wait(
        stream_id, version=(await store.info(stream_id)).version, timeout=30
    )
    stopped = await store.mark_done(stream_id, "stopped")
    result: object = await outcome(within(SECONDS, bumping, "the other process"))
    equal(type(result), StreamClosed, "what the other process got")
    equal(await store.info(stream_id), stopped, "info after the stop")
    assert stopped.tail >= info.tail, "the tail went back"


@check(10, "multi_process", SECOND_PROCESS)
async def check_a_killed_process_leaves_whole_appends(harness: Harness) -> None:
    """A process killed during its appends leaves whole records and a usable stream."""
    store, process = await harness.open(), await harness.second_process()
    stream_id = harness.new_id()
    await store.create(stream_id)
    dying = process.start("bump", stream_id, [b"%05d" % number for number in range(100_000)])
    seen = await store.info(stream_id)
    # In the middle of its appends, and not before the first.
    while seen.tail < 50:
        seen = await store.wait(stream_id, version=seen.version, timeout=30)
    await process.kill()
    await outcome(within(SECONDS, dying, "the answer of the killed process"))
    records, info = await read_all(store, stream_id)
    data = b"".join(record.data for record in records)
    expected = b"".join(b"%05d" % number for number in range(len(data) // 5))
    equal(data == expected, True, f"the {len(data)} bytes are whole records in order")
    info = await within(SECONDS, store.mark_done(stream_id), "the end, set by this process")
    equal(info.state, State.DONE, "state")
