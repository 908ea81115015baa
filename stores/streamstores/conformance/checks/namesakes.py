"""Clause 11: a stream created under an old id shares nothing with the old stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streamstores.conformance.assertions import (
    NO_ATTRIBUTES,
    content,
    equal,
    outcome,
    raises,
    within,
)
from streamstores.conformance.checks.followers import everything
from streamstores.conformance.checks.waits import PAST, bound
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, OffsetOutOfRange, StreamNotFound
from streamstores.follow import follow
from streamstores.store import State, StreamStore
from streamstores.writer import StreamWriter

End = Callable[[StreamStore, str], Awaitable[object]]

ENDS: dict[str, End] = {
    "delete": lambda store, stream_id: store.delete(stream_id),
    "expire": lambda store, stream_id: store.expire(stream_id, expires_at=PAST),
}


@check(11)
async def check_a_namesake_has_nothing_of_the_old_stream(harness: Harness) -> None:
    """A new stream has no byte, state, error, attribute or expiry of the stream before it."""
    store, other = await harness.open(), await harness.open()
    for end in ENDS.values():
        stream_id = harness.new_id()
        await store.create(stream_id, b"old", b"bytes", ttl=1000, attributes={"a": "b"})
        await store.append(stream_id, b"more", state="error", error="old error")
        await end(store, stream_id)
        created = await other.create(stream_id, b"new")
        info = await store.info(stream_id)
        equal(info, created, "info")
        seen = (info.tail, info.state, info.error, dict(info.attributes))
        equal(seen, (3, State.STREAMING, None, NO_ATTRIBUTES), "the new stream")
        equal((info.ttl, info.expires_at), (None, None), "expiry of the new stream")
        equal(await content(store, stream_id), b"new", "bytes")
        with raises(OffsetOutOfRange, "a read at an offset of the old stream"):
            await store.read(stream_id, 12)


@check(11)
async def check_old_versions_never_match(harness: Harness) -> None:
    """A version of an old stream is a Conflict in every namesake, so zombies cannot write."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    old: list[int] = []
    for generation in range(6):
        info = await store.create(stream_id)
        for version in old:
            with raises(Conflict, f"version {version} in generation {generation}"):
                await other.append(stream_id, b"zombie", version=version)
        assert info.version not in old, f"version {info.version} was had before"
        old.append(info.version)
        for _ in range(3):
            info = await store.append(stream_id, b"x")
            assert info.version not in old, f"version {info.version} was had before"
            old.append(info.version)
        await list(ENDS.values())[generation % 2](other, stream_id)


@check(11)
async def check_a_waiter_of_the_old_stream(harness: Harness) -> None:
    """A waiter gets StreamNotFound even if its id is created anew at once."""
    store, other = await harness.open(), await harness.open()
    for name, end in ENDS.items():
        for ender in (store, other):
            stream_id = harness.new_id()
            info = await store.create(stream_id, b"abc")
            waiter = harness.start(
                outcome(store.wait(stream_id, version=info.version, timeout=600))
            )
            await asyncio.sleep(0.02)
            await end(ender, stream_id)
            await ender.create(stream_id, b"abc")
            result = await within(bound(store, ender), waiter, f"wait, after {name}")
            equal(type(result), StreamNotFound, f"outcome of the wait after {name}")


@check(11)
async def check_a_follower_of_the_old_stream(harness: Harness) -> None:
    """A live follower of the old stream gets StreamNotFound and no byte of the new stream."""
    store, other = await harness.open(), await harness.open()
    for name, end in ENDS.items():
        for ender in (store, other):
            stream_id = harness.new_id()
            await store.create(stream_id, b"old")
            follower = follow(store, stream_id)
            equal((await follower.__anext__()).data, b"old", "replayed record")
            step = harness.start(outcome(follower.__anext__()))
            await asyncio.sleep(0.02)
            await end(ender, stream_id)
            # The same first record, so that the old follower's offset fits the namesake too.
            await ender.create(stream_id, b"old", b"new")
            result = await within(bound(store, ender), step, f"the follower, after {name}")
            equal(type(result), StreamNotFound, f"outcome of the next step after {name}")


@check(11)
async def check_shared_records_never_reach_a_namesake(harness: Harness) -> None:
    """Followers of the new stream get only its bytes, beside followers of the old stream."""
    store, other = await harness.open(), await harness.open()
    for ender in (store, other):
        stream_id = harness.new_id()
        await store.create(stream_id, b"old record")
        old = [follow(store, stream_id) for _ in range(3)]
        for follower in old:
            equal((await follower.__anext__()).data, b"old record", "record of the old stream")
        await store.append(stream_id, b"old, live")
        equal((await old[0].__anext__()).data, b"old, live", "live record of the old stream")
        await ender.delete(stream_id)
        await ender.create(stream_id, b"new record", b"new, live")
        fresh = follow(store, stream_id)
        joined = follow(store, stream_id, 10)
        seconds = bound(store, ender)
        record = await within(seconds, fresh.__anext__(), "the new follower")
        equal(record.data, b"new record", "first record of the new stream")
        record = await within(seconds, joined.__anext__(), "the follower from 10")
        equal(record.data, b"new, live", "second record of the new stream")
        await ender.mark_done(stream_id)
        rest = await within(seconds, everything(fresh), "the new follower's end")
        equal([each.data for each in rest], [b"new, live"], "the rest of the new stream")
        for follower in old:
            result = await within(seconds, outcome(everything(follower)), "an old follower")
            equal(type(result), StreamNotFound, f"outcome of an old follower, {result!r}")


@check(11)
async def check_a_zombie_writer_cannot_write_into_its_namesake(harness: Harness) -> None:
    """The writer of a deleted stream fails and writes nothing into the namesake."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    zombie = StreamWriter(store, stream_id, info=info)
    await zombie.write(b"alive")
    await zombie.flush()
    await other.delete(stream_id)
    await other.create(stream_id, b"fresh")
    await zombie.write(b"dead")
    with raises(Conflict, "the zombie's flush", StreamNotFound):
        await zombie.flush()
    equal(await content(other, stream_id), b"fresh", "bytes of the namesake")


@check(11)
async def check_generations_race(harness: Harness) -> None:
    """While an id is deleted and created repeatedly, no reader sees a mixture of streams."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()

    async def churn() -> None:
        for generation in range(20):
            mark = b"%02d" % generation
            await store.create(stream_id, mark, attributes={"mark": mark.decode()})
            await store.append(stream_id, mark, mark)
            await store.delete(stream_id)

    churning = harness.start(churn())
    while not churning.done():
        page = await outcome(other.read(stream_id))
        if isinstance(page, StreamNotFound):
            await asyncio.sleep(0)
            continue
        assert not isinstance(page, Exception), f"read raised {page!r}"
        mark = page.info.attributes["mark"].encode()
        equal({record.data for record in page.records}, {mark}, "records of one generation")
        await asyncio.sleep(0)
    await churning
