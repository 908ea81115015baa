"""`StreamWriter` on the store: what producers rely on, each check under its clause."""

from __future__ import annotations

import asyncio

from streamstores.conformance.assertions import (
    PATIENCE,
    content,
    equal,
    raises,
    read_all,
    within,
)
from streamstores.conformance.checks.followers import data_of, everything
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, StreamClosed
from streamstores.follow import follow
from streamstores.store import State, StreamStore
from streamstores.writer import StreamWriter


@check(3)
async def check_a_writer_keeps_order_and_bytes(harness: Harness) -> None:
    """Chunks that gather during an append go out in order, each as its own record."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"begin")
    chunks = [b"%d;" % number for number in range(400)]
    async with StreamWriter(store, stream_id, linger=0) as writer:
        for number, chunk in enumerate(chunks):
            await writer.write(chunk)
            if number % 9 == 0:
                await asyncio.sleep(0)
    records, info = await read_all(store, stream_id)
    equal([record.data for record in records], [b"begin", *chunks], "records")
    equal((info.state, info), (State.DONE, writer.info), "the end")


@check(3)
async def check_a_full_writer_makes_its_producer_wait(harness: Harness) -> None:
    """A writer with a small buffer takes any amount of data, and chunks of any size."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    limit = store.limits.record_bytes
    async with StreamWriter(store, stream_id, linger=0, max_buffer_bytes=1000) as writer:
        for number in range(60):
            await writer.write(b"%02d" % number * 50)
        await writer.write(b"x" * (limit + 5))
    whole = b"".join(b"%02d" % number * 50 for number in range(60)) + b"x" * (limit + 5)
    equal(await content(store, stream_id) == whole, True, "the bytes are equal")


@check(1)
async def check_a_writers_last_word_is_atomic(harness: Harness) -> None:
    """aclose(state=…) sets the state together with the last records, in one step."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    created = await store.create(stream_id)
    # With a linger for which the close must not wait.
    writer = StreamWriter(store, stream_id, info=created, linger=30)
    await writer.write(b"last")
    waiter = harness.start(other.wait(stream_id, version=created.version, timeout=600))
    await asyncio.sleep(0.02)
    info = await writer.aclose("error", error="why", attributes={"tokens": "1"})
    equal(await waiter, info, "what a waiter sees first")
    assert info is not None
    equal((info.tail, info.state, info.error), (4, State.ERROR, "why"), "the end")
    equal(dict(info.attributes), {"tokens": "1"}, "attributes")


@check(2)
async def check_a_takeover_fences_the_old_writer(harness: Harness) -> None:
    """After another producer took over, the old writer gets Conflict and writes no byte."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    old = StreamWriter(store, stream_id, linger=0)
    await old.write(b"old")
    await old.flush()
    seen = await other.info(stream_id)
    taken = await other.append(stream_id, version=seen.version, attributes={"owner": "new"})
    await old.write(b"zombie")
    with raises(Conflict, "flush of the old writer"):
        await old.flush()
    with raises(Conflict, "write of the old writer"):
        await old.write(b"zombie")
    async with StreamWriter(other, stream_id, info=taken, linger=0) as new:
        await new.write(b" new")
    equal(await content(store, stream_id), b"old new", "bytes")


@check(2)
async def check_unfenced_writers_share_a_stream(harness: Harness) -> None:
    """Several unfenced writers append at the same time: no record is lost or doubled, and those
    of each writer stay in order."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)

    async def write(name: str, place: StreamStore) -> None:
        writer = StreamWriter(place, stream_id, linger=0, fenced=False)
        for number in range(30):
            await writer.write(f"{name}{number};".encode())
            await asyncio.sleep(0)
        await writer.aclose()

    writing = [
        write(name, place) for name, place in zip("abcd", (store, other) * 2, strict=True)
    ]
    await within(4 * PATIENCE.eventual, asyncio.gather(*writing), "the writers")
    records, info = await read_all(store, stream_id)
    equal(info.state, State.STREAMING, "the state, which no writer has set")
    for name in "abcd":
        own = [record.data for record in records if record.data.startswith(name.encode())]
        equal(own, [f"{name}{number};".encode() for number in range(30)], f"records of {name}")
    equal(len(records), 120, "how many records there are")


@check(6)
async def check_a_stop_ends_the_writer(harness: Harness) -> None:
    """After any store object stopped the stream, the writer gets StreamClosed and writes no
    byte."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    writer = StreamWriter(store, stream_id, linger=0)
    await writer.write(b"said")
    await writer.flush()
    stopped = await other.mark_done(stream_id, "stopped")
    await writer.write(b"unsaid")
    with raises(StreamClosed, "flush after the stop") as caught:
        await writer.flush()
    equal(caught.error.info, stopped, "StreamClosed.info")
    equal(await content(store, stream_id), b"said", "bytes")


@check(5)
async def check_a_silent_writer_beats(harness: Harness) -> None:
    """A writer with a heartbeat keeps increasing the version of a silent stream."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    writer = StreamWriter(store, stream_id, info=info, heartbeat=0.05)
    writer.start()
    for _ in range(3):
        seconds = 10 * PATIENCE.prompt
        waiting = other.wait(stream_id, version=info.version, timeout=600)
        info = await within(seconds, waiting, "a heartbeat")
        equal((info.tail, info.state), (0, State.STREAMING), "the stream")
    await writer.aclose("done")


@check(5)
async def check_writers_and_followers_together(harness: Harness) -> None:
    """While ten streams are written and followed at once, every follower gets every byte."""
    store, other = await harness.open(), await harness.open()

    async def produce(stream_id: str, seed: int) -> None:
        async with StreamWriter(store, stream_id, linger=0) as writer:
            for number in range(50):
                await writer.write(b"%d-%d;" % (seed, number))
                if number % (seed + 2) == 0:
                    await asyncio.sleep(0)

    ids = [harness.new_id() for _ in range(10)]
    for stream_id in ids:
        await store.create(stream_id)
    following = [
        harness.start(everything(follow(reader, stream_id)))
        for stream_id in ids
        for reader in (store, other)
    ]
    await asyncio.gather(*(produce(stream_id, seed) for seed, stream_id in enumerate(ids)))
    seconds = 4 * PATIENCE.prompt + other.limits.poll_interval
    followed = await within(seconds, asyncio.gather(*following), "the followers")
    for number, records in enumerate(followed):
        expected = b"".join(b"%d-%d;" % (number // 2, each) for each in range(50))
        equal(data_of(records), expected, f"bytes of follower {number}")
