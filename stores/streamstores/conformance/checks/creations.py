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
