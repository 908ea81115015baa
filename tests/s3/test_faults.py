"""Lost answers, processes that die or sleep, and races that S3 alone decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from streamstores import (
    Conflict,
    CorruptData,
    OutcomeUnknown,
    S3StreamStore,
    State,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
    StreamWriter,
)
from tests.s3.conftest import Place, eventually
from tests.s3.opening import set_timeout
from tests.s3.recording_client import put_of
from tests.services import PATIENCE
from tests.services.s3 import S3Server, moto_server

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


PAST = datetime(2001, 2, 3, tzinfo=timezone.utc)


@contextlib.contextmanager
def frozen(server: S3Server) -> Iterator[Callable[[bool], None]]:
    """A function that freezes and thaws a server's process."""
    assert server.pid is not None
    pid = server.pid
    try:
        yield lambda freeze: os.kill(pid, signal.SIGSTOP if freeze else signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


async def content(store: S3StreamStore, stream_id: str) -> bytes:
    found = b""
    while True:
        page = await store.read(stream_id, len(found))
        found += b"".join(record.data for record in page.records)
        if page.next_offset == page.info.tail:
            return found


async def reached(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


async def test_an_append_whose_answer_is_lost_is_recognised_by_its_nonce(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a")
    client.lose(put_of("segments/"), applied=True)
    assert (await store.append("a", b"once", at=0)).tail == 4
    assert client.count("put_object", "segments/") == 2
    assert await content(store, "a") == b"once"


async def test_a_lost_append_is_sent_again(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a")
    client.lose(put_of("segments/"), applied=False)
    assert (await store.append("a", b"once")).tail == 4
    assert await content(store, "a") == b"once"


@pytest.mark.parametrize(
    ("code", "status"),
    [("ConditionalRequestConflict", 409), ("SlowDown", 503), ("InternalError", 500)],
)
async def test_a_write_that_s3_asks_to_repeat_is_repeated(
    place: Place, code: str, status: int
) -> None:
    store, client = await place.recorded()
    await store.create("a")
    client.refuse(put_of("segments/"), code, status)
    assert (await store.append("a", b"once")).tail == 4
    assert client.count("put_object", "segments/") == 2
    assert await content(store, "a") == b"once"


async def test_a_write_that_s3_never_accepts_is_unavailable(
    place: Place,
) -> None:
    """S3 said each time that it has not applied the write."""
    store, client = await place.recorded()
    await store.create("a")
    client.refuse(put_of("segments/"), "ConditionalRequestConflict", 409)
    client.die_at(1)
    with pytest.raises(StoreUnavailable):
        await store.append("a", b"x")


@pytest.mark.parametrize("applied", [True, False])
async def test_a_creation_whose_answer_is_lost_is_recognised_by_its_nonce(
    place: Place, applied: bool
) -> None:
    store, client = await place.recorded()
    client.lose(put_of("streams/"), applied=applied)
    info = await store.create("a", b"x")
    assert await (await place.store()).info("a") == info
    with pytest.raises(StreamExists):
        await store.create("a")


async def test_a_lost_answer_to_delete_still_deletes_once(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a", state="done")
    await store._packer.idle()
    client.lose(lambda operation, options: operation == "delete_object", applied=True)
    await store.delete("a")
    with pytest.raises(StreamNotFound):
        await store.delete("a")


@pytest.mark.parametrize("applied", [True, False])
async def test_a_writer_continues_after_an_append_without_any_answer(
    place: Place, applied: bool
) -> None:
    """S3 is unreachable afterwards; once it is back, nothing is lost or doubled."""
    store, client = await place.recorded()
    info = await store.create("a")
    client.lose(put_of("segments/"), applied=applied)
    client.die_at(1)
    with pytest.raises(OutcomeUnknown):
        await store.append("a", b"x")
    client.die_at(10**9)
    async with StreamWriter(store, "a", info=await store.info("a")) as writer:
        await writer.write(b"y")
    assert await content(store, "a") == (b"xy" if applied else b"y")
    assert info.version < writer.info.version  # type: ignore[union-attr]  # it is closed


async def test_every_call_without_s3_is_unavailable(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a", b"x")
    client.die_at(0)
    for call in (store.info("a"), store.read("a"), store.append("a", b"y"), store.create("b")):
        with pytest.raises(StoreUnavailable):
            await call
    client.die_at(10**9)
    assert await content(store, "a") == b"x"


async def test_an_append_that_arrives_after_delete_is_not_acknowledged(place: Place) -> None:
    slow, client = await place.recorded()
    store = await place.store()
    await store.create("a")
    await slow.info("a")
    is_there, may_go = client.hold(put_of("segments/"))
    append = asyncio.create_task(slow.append("a", b"late"))
    await reached(is_there)
    await store.delete("a")
    may_go.set()
    with pytest.raises(StreamNotFound):
        await append


async def test_an_append_delayed_until_its_stream_was_swept_is_not_acknowledged(
    place: Place,
) -> None:
    """Its key is free again; only S3's time and the head show that the chain is gone."""
    slow, client = await place.recorded(grace=1)
    store = await place.store(grace=1)
    old = await store.create("a")
    await store.append("a", b"x")
    await slow.info("a")
    is_there, may_go = client.hold(put_of("segments/"))
    append = asyncio.create_task(slow.append("a", b"late", version=old.version + 1))
    await reached(is_there)
    await store.delete("a")
    await eventually(lambda: not place.keys("segments/"), store.sweep)
    await store.create("a", b"new")
    may_go.set()
    with pytest.raises(Conflict):
        await append
    assert await content(store, "a") == b"new"
    await eventually(lambda: not place.keys("segments/"), store.sweep)  # its records


async def test_an_append_that_s3_took_after_the_expiry_is_void(place: Place) -> None:
    slow, client = await place.recorded()
    store = await place.store()
    info = await store.create("a", ttl=2)
    await slow.info("a")
    is_there, may_go = client.hold(put_of("segments/"))
    append = asyncio.create_task(slow.append("a", b"late"))
    await reached(is_there)

    async def is_answered() -> None:
        await store._storage.bucket.get("no-such-key")  # it brings S3's time

    end = info.expires_at
    assert end is not None
    # S3 dates in whole seconds.
    await eventually(
        lambda: store._storage.clock.seconds() > end.timestamp() + 1.1, is_answered
    )
    with pytest.raises(StreamNotFound):
        await store.info("a")
    may_go.set()
    with pytest.raises(StreamNotFound):
        await append
    for each in (slow, store, await place.store()):
        with pytest.raises(StreamNotFound):
            await each.info("a")
    assert (await store.create("a", b"new")).tail == 3
    assert await content(slow, "a") == b"new"


async def test_a_delayed_creation_does_not_replace_a_living_stream(place: Place) -> None:
    slow, client = await place.recorded()
    store = await place.store()
    await store.create("a", expires_at=PAST)
    is_there, may_go = client.hold(
        lambda operation, options: operation == "put_object" and "IfMatch" in options
    )
    creation = asyncio.create_task(slow.create("a", b"late"))
    await reached(is_there)
    await store.create("a", b"first")
    may_go.set()
    with pytest.raises(StreamExists):
        await creation
    assert await content(slow, "a") == b"first"


async def test_of_racing_creations_over_an_expired_stream_one_wins(place: Place) -> None:
    stores = [await place.store() for _ in range(4)]
    for number in range(5):
        stream_id = f"a{number}"
        await stores[0].create(stream_id, b"old", expires_at=PAST)
        tries = [store.create(stream_id, b"new") for store in stores * 2]
        results = await asyncio.gather(*tries, return_exceptions=True)
        won = [each for each in results if not isinstance(each, BaseException)]
        lost = [each for each in results if isinstance(each, StreamExists)]
        assert (len(won), len(lost)) == (1, 7)
        assert all(each.info == won[0] for each in lost)
        assert await stores[1].info(stream_id) == won[0]


async def test_an_append_races_delete_and_create(
    place: Place,
) -> None:
    """If it succeeds, it is in the new stream, or was in the deleted stream."""
    one, other = await place.store(), await place.store()
    for number in range(10):
        stream_id = f"a{number}"
        old = await one.create(stream_id)

        async def anew(stream_id: str = stream_id) -> None:
            await one.delete(stream_id)
            await one.create(stream_id)

        results = await asyncio.gather(
            anew(), *(other.append(stream_id, b"x") for _ in range(3)), return_exceptions=True
        )
        assert results[0] is None
        later = await other.info(stream_id)
        assert later.created_at != old.created_at
        landed = [each for each in results[1:] if not isinstance(each, BaseException)]
        in_new = [each for each in landed if each.created_at == later.created_at]
        assert later.tail == len(in_new)
        refused = [each for each in results[1:] if isinstance(each, BaseException)]
        assert all(isinstance(each, StreamNotFound) for each in refused)


async def test_a_stop_that_commits_first_refuses_a_batch_in_flight(place: Place) -> None:
    slow, client = await place.recorded()
    store = await place.store()
    await store.create("a")
    await slow.info("a")
    is_there, may_go = client.hold(put_of("segments/"))
    appends = [asyncio.create_task(slow.append("a", b"x")) for _ in range(5)]
    await reached(is_there)
    await store.mark_done("a", "stopped")
    may_go.set()
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(each) for each in results] == [StreamClosed] * 5
    assert (await slow.info("a")).state is State.STOPPED


async def test_closing_finishes_the_append_in_flight(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a")
    is_there, may_go = client.hold(put_of("segments/"))
    first = asyncio.create_task(store.append("a", b"x"))
    await reached(is_there)
    second = asyncio.create_task(store.append("a", b"y"))
    closing = asyncio.create_task(store.aclose())
    while not store._commits._is_closed:
        await asyncio.sleep(0.01)
    may_go.set()
    assert (await first).tail == 1
    with pytest.raises(StoreUnavailable):
        await second
    await closing
    assert await content(await place.store(), "a") == b"x"


async def test_a_damaged_segment_is_corrupt(place: Place) -> None:
    store = await place.store()
    await store.create("a")
    await store.append("a", b"x")
    (key,) = place.keys("segments/")
    place.put(key, b"STS1 nonsense")
    with pytest.raises(CorruptData, match="segments/"):
        await (await place.store()).info("a")


WRITER = """
import asyncio, sys
from streamstores import open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.create("a")
        number = 0
        while True:
            batch = [b"%06d" % n for n in range(number, number + 50)]
            await asyncio.gather(*(store.append("a", each) for each in batch))
            number += 50
            print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("progress", [50, 500])
async def test_a_writer_that_is_killed_leaves_whole_batches(
    place: Place, progress: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, place.url(), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    acknowledged = 0
    assert process.stdout is not None
    while acknowledged < progress:
        acknowledged = int(await process.stdout.readline())
    process.kill()
    rest = (await process.stdout.read()).split()
    await process.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = await place.store()
    found = await content(store, "a")
    count = len(found) // 6
    assert found == b"".join(b"%06d" % number for number in range(count))
    assert acknowledged <= count <= acknowledged + 50
    info = await store.append("a", b"more", state="done")
    assert info.tail == len(found) + 4


async def test_the_store_continues_when_a_frozen_server_comes_back() -> None:
    """A call in flight gets an unknown outcome within the timeout."""
    with moto_server() as server, frozen(server) as freeze:
        async with S3StreamStore(server.url()) as store:
            await store.create("a")
            await store.append("a", b"x")
            set_timeout(store, 1)
            freeze(True)
            with pytest.raises(OutcomeUnknown):
                await store.append("a", b"y", at=1)
            with pytest.raises(StoreUnavailable):
                await store.info("a")
            freeze(False)
            set_timeout(store, PATIENCE)
            info = await store.info("a")
            assert info.tail in {1, 2}
            await store.append("a", b"z", at=info.tail)
            assert await content(store, "a") in {b"xz", b"xyz"}


async def test_a_server_killed_in_mid_call_is_unavailable() -> None:
    with moto_server() as server:
        store = S3StreamStore(server.url())
        await store.create("a")
        set_timeout(store, 1)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            await store.append("a", b"x")
        with pytest.raises(StoreUnavailable):
            await store.info("a")
        await store.aclose()
