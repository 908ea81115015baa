"""Storage is given back: of expired, deleted and packed streams, and of dead writers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timezone

import pytest

from streamstores import OutcomeUnknown, S3StreamStore, StoreUnavailable, StreamNotFound
from streamstores.backends._s3 import object_sweeper
from streamstores.backends._s3.s3_answers import UNCHANGED
from tests.s3.conftest import Place, eventually, on_conditional_removal
from tests.s3.recording_client import put_of

pytestmark = pytest.mark.long

PAST = datetime(2001, 2, 3, tzinfo=timezone.utc)


async def until_empty(store: S3StreamStore, place: Place) -> None:
    await eventually(lambda: not place.keys(), store.sweep)


@on_conditional_removal
@pytest.mark.parametrize("state", ["streaming", "stopped", "done"])
async def test_nothing_remains_of_an_expired_stream(place: Place, state: str) -> None:
    store = await place.store(grace=1)
    await store.create("a/b", b"x")
    await store.append("a/b", b"y" * 100_000, state=state)
    await store._packer.idle()
    await store.expire("a/b", expires_at=PAST)
    assert await store.sweep() == 1
    await until_empty(store, place)


@on_conditional_removal
async def test_nothing_remains_of_a_deleted_stream(place: Place) -> None:
    store = await place.store(grace=1)
    await store.create("a", b"x", ttl=1)
    await store.append("a", b"y")
    await store.delete("a")
    await until_empty(store, place)


async def test_a_packed_stream_is_one_object(place: Place) -> None:
    store = await place.store(grace=1)
    await store.create("a", b"x")
    for _ in range(10):
        await store.append("a", b"y")
    await store.mark_done("a")
    await eventually(lambda: place.keys() == ["streams/a.stream"], store.sweep)
    assert (await store.info("a")).tail == 11


@on_conditional_removal
async def test_a_stream_whose_expiry_has_slid_stays_and_is_checked_again(place: Place) -> None:
    store = await place.store(grace=1)
    await store.create("a", ttl=3)
    first = place.keys("due/")

    async def live() -> None:
        while True:
            await store.append("a", b"x")
            await asyncio.sleep(0.1)

    # Beside the sweeps, because one of them may take longer than the stream lives.
    living = asyncio.create_task(live())
    try:
        await eventually(lambda: place.keys("due/") != first, store.sweep)
    finally:
        living.cancel()
        await asyncio.wait([living])
    assert (await store.info("a")).tail > 0
    assert len(place.keys("due/")) == 1
    await until_empty(store, place)


async def test_a_sweep_is_limited(place: Place) -> None:
    store = await place.store()
    for number in range(5):
        await store.create(f"a{number}", expires_at=PAST)
    assert [await store.sweep(limit=2) for _ in range(4)] == [2, 2, 1, 0]


@on_conditional_removal
async def test_a_damaged_stream_does_not_stop_the_sweep(place: Place) -> None:
    store = await place.store(grace=1)
    await store.create("a", expires_at=PAST)
    await store.create("b", expires_at=PAST)
    place.put("streams/a.stream", b"nonsense")
    assert await (await place.store(grace=1)).sweep() == 1
    assert place.keys("streams/") == ["streams/a.stream"]


@on_conditional_removal
async def test_segments_of_ten_thousand_records_are_removed(place: Place) -> None:
    store = await place.store(grace=1)
    await store.create("a", attributes={"a": "\0" * 16_000})
    await store.append("a", *[b"x" * 1000] * 10_000)
    await store.delete("a")
    await until_empty(store, place)


async def test_two_sweeps_at_once_count_an_expired_stream_once(place: Place) -> None:
    one, other = await place.store(), await place.store()
    for number in range(5):
        await one.create(f"a{number}", expires_at=PAST)
    assert sum(await asyncio.gather(one.sweep(), other.sweep())) == 5


async def test_a_delayed_sweep_spares_a_stream_created_again(place: Place) -> None:
    store = await place.store()
    sleeper, client = await place.recorded()
    await store.create("a", b"old", expires_at=PAST)
    is_there, may_go = client.hold(put_of("segments/"))
    sweep = asyncio.create_task(sleeper.sweep())
    assert await asyncio.to_thread(is_there.wait, 30)
    new = await store.create("a", b"new")
    may_go.set()
    assert await sweep == 0
    assert await store.info("a") == new


@on_conditional_removal
async def test_a_sweep_completes_a_deletion_that_was_cut_short(
    place: Place,
) -> None:
    """The process wrote the tombstone and then died."""
    dying, client = await place.recorded(grace=1)
    await dying.create("a", b"x")
    client.die_at(1)
    # If the write took longer than the grace, its look at the result is what fails.
    with suppress(OutcomeUnknown):
        await dying.delete("a")
    assert place.keys("streams/")
    store = await place.store(grace=1)
    with pytest.raises(StreamNotFound):
        await store.info("a")
    assert [info async for info in store.list()] == []
    await until_empty(store, place)


async def test_a_packed_object_that_no_head_names_is_removed(place: Place) -> None:
    """And a packer that is delayed until then cannot make a head name it any more."""
    store = await place.store(grace=1)
    sleeper, client = await place.recorded(grace=1)
    await store.create("a", b"x" * 100_000)
    store._packer.pack_soon = lambda stream_id: None  # type: ignore[method-assign]  # not yet
    await store.mark_done("a")
    known = await sleeper._streams.living("a")
    is_there, may_go = client.hold(put_of("streams/"))
    late = asyncio.create_task(sleeper._packer.pack(known))
    assert await asyncio.to_thread(is_there.wait, 30)
    (stray,) = place.keys("packed/")
    assert await store._packer.pack(await store._streams.living("a"))
    await eventually(lambda: stray not in place.keys("packed/"), store.sweep)
    may_go.set()
    assert not await late
    assert (await (await place.store()).read("a")).next_offset == 100_000
    assert len(place.keys("packed/")) == 1


async def test_a_vacant_head_stays_if_the_server_cannot_remove_under_a_condition(
    place: Place,
) -> None:
    store = await place.store(grace=1)
    other = await place.store(grace=1)
    store._storage.bucket.traits = store._storage.bucket.traits._replace(
        removes_conditionally=False
    )
    for state in ("streaming", "done"):
        await store.create("a", b"x", state=state)
        await store._packer.idle()
        await store.delete("a")
        for each in (store, other):
            with pytest.raises(StreamNotFound):
                await each.info("a")
        assert [info async for info in other.list()] == []
    assert place.keys("streams/") == ["streams/a.stream"]
    assert (await other.create("a", b"new")).tail == 3
    assert (await store.info("a")).tail == 3


@on_conditional_removal
async def test_a_store_sweeps_in_the_background(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_sweeper, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(object_sweeper, "ORPHAN_SWEEP_SECONDS", 0.05)
    store, client = await place.recorded(grace=1)
    client.die_at(3)
    await store.create("a", ttl=1)
    await eventually(lambda: len(client.calls) > 5, lambda: asyncio.sleep(0))
    client.die_at(10**9)
    await eventually(lambda: not place.keys(), lambda: asyncio.sleep(0))


async def test_a_sweep_without_s3_is_unavailable(place: Place) -> None:
    store, client = await place.recorded()
    client.die_at(0)
    with pytest.raises(StoreUnavailable):
        await store.sweep()


async def test_an_unchanged_head_is_not_sent_again(place: Place) -> None:
    store = await place.store()
    await store.create("a", b"x" * 1000)
    known = await store._streams.living("a")
    answer = await store._storage.bucket.get(store._storage.keys.head("a"), unless=known.etag)
    assert (answer.status, answer.body) == (UNCHANGED, b"")
