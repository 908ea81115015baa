"""Clauses 2 and 5: streams that may have to be created first."""

from __future__ import annotations

import asyncio
import time

from streamstores.appends import append_or_create
from streamstores.conformance.assertions import (
    PATIENCE,
    content,
    equal,
    outcome,
    raises,
    read_all,
    within,
)
from streamstores.conformance.checks.followers import VANISHING, everything
from streamstores.conformance.checks.waits import bound
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import StreamClosed, StreamNotFound
from streamstores.follow import follow
from streamstores.store import StreamInfo

LOOK_SECONDS = 0.5
"""How long a follower may take to find a stream that another store object created."""


@check(2)
async def check_a_first_append_creates(harness: Harness) -> None:
    """append_or_create creates a stream as asked, and appends to it if it exists."""
    store = await harness.open()
    stream_id = harness.new_id()
    created = await append_or_create(store, stream_id, b"a", ttl=600, attributes={"x": "y"})
    equal((created.tail, created.ttl, dict(created.attributes)), (1, 600, {"x": "y"}), "it")
    info = await append_or_create(store, stream_id, b"b", b"c", ttl=1, attributes={"x": "z"})
    equal((info.tail, info.ttl, dict(info.attributes)), (3, 600, {"x": "y"}), "appended to")
    equal(info.version, created.version + 1, "the version after the append")
    await store.mark_done(stream_id)
    with raises(StreamClosed, "append_or_create on a closed stream"):
        await append_or_create(store, stream_id, b"d")
    equal(await content(store, stream_id), b"abc", "bytes")


@check(2)
async def check_racing_first_appends_all_land(harness: Harness) -> None:
    """If calls of append_or_create race for a new id, each record is there once."""
    store, other = await harness.open(), await harness.open()
    for _ in range(5):
        stream_id = harness.new_id()
        chunks = [b"<%d>" % number for number in range(12)]
        results = await asyncio.gather(
            *(
                outcome(append_or_create((store, other)[number % 2], stream_id, chunk))
                for number, chunk in enumerate(chunks)
            )
        )
        for result in results:
            assert isinstance(result, StreamInfo), f"append_or_create ended with {result!r}"
        records, info = await read_all(store, stream_id)
        equal(sorted(record.data for record in records), sorted(chunks), "records")
        versions = sorted(
            result.version for result in results if not isinstance(result, Exception)
        )
        equal(versions, list(range(info.version - 11, info.version + 1)), "versions")


@check(5)
async def check_a_follower_can_wait_for_its_stream(harness: Harness) -> None:
    """With wait_for_create a follower may come before the stream, whichever store object
    creates it."""
    store, other = await harness.open(), await harness.open()
    for creator in (store, other):
        stream_id = harness.new_id()
        follower = follow(store, stream_id, wait_for_create=600)
        first = harness.start(follower.__anext__())
        await asyncio.sleep(0.05)
        equal(first.done(), False, "the first step is over before there is a stream")
        await creator.create(stream_id, b"abc")
        record = await within(PATIENCE.prompt + LOOK_SECONDS, first, "the first record")
        equal(record.data, b"abc", "the first record")
        await creator.mark_done(stream_id)
        equal([record async for record in follower], [], "records after it")


@check(5)
async def check_a_follower_waits_for_its_stream_no_longer_than_asked(harness: Harness) -> None:
    """If the stream is not created within wait_for_create, the first step raises
    StreamNotFound."""
    store = await harness.open()
    for seconds in (0, 0.2):
        begin = time.monotonic()
        follower = follow(store, harness.new_id(), wait_for_create=seconds)
        with raises(StreamNotFound, f"following a missing stream for {seconds} seconds"):
            await within(PATIENCE.prompt + seconds, follower.__anext__(), "the first step")
        waited = time.monotonic() - begin
        equal(waited >= seconds, True, f"it waited for {seconds} seconds ({waited:.3f})")


@check(5)
async def check_a_follower_that_was_given_the_info_misses_nothing(harness: Harness) -> None:
    """What happens between `create` and the first step of a follower with its info is noticed
    as promptly as by a read, whichever store object makes the change."""
    store, other = await harness.open(), await harness.open()
    for changer in (store, other):
        stream_id = harness.new_id()
        info = await store.create(stream_id, b"abc")
        follower = follow(store, stream_id, info.tail, info=info)
        await changer.append(stream_id, b"def")
        record = await within(PATIENCE.prompt, follower.__anext__(), "the record after it")
        equal(record, (3, b"def"), "the record after the info")
        late = follow(store, stream_id, info.tail, info=info)
        done = await changer.mark_done(stream_id)
        seconds = bound(store, changer)
        records = await within(seconds, everything(late), "a follower that comes late")
        equal(records, [(3, b"def")], "its records")
        equal(late.info, done, "its info")
        equal(await within(seconds, everything(follower), "the end"), [], "records at the end")


@check(5)
async def check_a_follower_that_was_given_the_info_of_a_lost_stream(harness: Harness) -> None:
    """If the stream was deleted, expired or begun anew since, its first step raises
    StreamNotFound."""
    store, other = await harness.open(), await harness.open()
    for name, vanish in VANISHING.items():
        for ender in (store, other):
            stream_id = harness.new_id()
            info = await store.create(stream_id, b"abc")
            follower = follow(store, stream_id, info.tail, info=info)
            await vanish(ender, stream_id)
            step = outcome(follower.__anext__())
            result = await within(PATIENCE.prompt, step, f"the first step after {name}")
            equal(type(result), StreamNotFound, f"outcome of the first step after {name}")


@check(5)
async def check_a_follower_that_was_given_the_info_begins_anywhere(harness: Harness) -> None:
    """With the info of a stream that is followed already, a follower yields every byte from any
    offset, inside a record too."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    first = follow(store, stream_id, info=info)
    whole = b""
    for chunk in (b"a", b"bcd", b"ef"):
        whole += chunk
        info = await store.append(stream_id, chunk)
        equal((await within(PATIENCE.prompt, first.__anext__(), "live")).data, chunk, "live")
    followers = [
        follow(store, stream_id, offset, info=info) for offset in range(len(whole) + 1)
    ]
    following = [harness.start(everything(follower)) for follower in followers]
    await asyncio.sleep(0.02)
    await store.append(stream_id, b"end", state="done")
    for offset, rest in enumerate(following):
        records = await within(bound(store, store), rest, f"the follower from {offset}")
        data = b"".join(record.data for record in records)
        equal(data, whole[offset:] + b"end", f"bytes from {offset}")
