"""Finished streams become one object, even if a packer dies on the way."""

from __future__ import annotations

import asyncio

import pytest

from streamstores import CorruptData, S3StreamStore, StoreUnavailable, StreamNotFound
from tests.s3.conftest import Place, eventually, on_conditional_removal

pytestmark = pytest.mark.long

CHUNKS = [b"%05d" % number * 400 for number in range(100)]  # 200 kB


async def content(store: S3StreamStore, stream_id: str, offset: int = 0) -> bytes:
    found = b""
    while True:
        page = await store.read(stream_id, offset + len(found), max_bytes=30_000)
        found += b"".join(record.data for record in page.records)
        if page.next_offset == page.info.tail:
            return found


async def written(place: Place, *chunks: bytes) -> S3StreamStore:
    """A store with a finished stream in segments, which it does not pack."""
    store = await place.store(grace=1)
    await store.create("a", b"first")
    for start in range(0, len(chunks), 10):
        await store.append("a", *chunks[start : start + 10])
    store._packer.pack_soon = lambda stream_id: None  # type: ignore[method-assign]  # not yet
    await store.mark_done("a")
    return store


async def until_swept(store: S3StreamStore, place: Place, folder: str) -> None:
    await eventually(lambda: not place.keys(folder), store.sweep)


@pytest.mark.parametrize("chunks", [[b"word "] * 50, CHUNKS], ids=["small", "larger"])
async def test_a_packer_that_dies_at_any_request_harms_nothing(
    place: Place, chunks: list[bytes]
) -> None:
    expected = b"first" + b"".join(chunks)
    await written(place, *chunks)
    for calls in range(20):
        store, client = await place.recorded(grace=1)
        known = await store._streams.living("a")
        client.die_at(calls)
        try:
            is_packed = await store._packer.pack(known)
        except StoreUnavailable:
            is_packed = False
        reader = await place.store()
        assert await content(reader, "a") == expected
        if is_packed:
            break
    assert is_packed
    assert calls >= 3
    store = await place.store(grace=1)
    await until_swept(store, place, "segments/")
    assert await content(store, "a") == expected
    assert len(place.keys("packed/")) == (1 if chunks is CHUNKS else 0)


async def test_a_packer_that_dies_in_the_middle_of_an_upload_harms_nothing(
    place: Place,
) -> None:
    store = await place.store(grace=1)
    await store.create("a")
    store._packer.pack_soon = lambda stream_id: None  # type: ignore[method-assign]  # not yet
    chunk = bytes(range(256)) * 4096
    await store.append("a", *[chunk] * 12, state="done")
    known = await store._streams.living("a")
    for calls in range(20):
        dying, client = await place.recorded(grace=1)
        dying._streams.cache.put(await store._streams.fetch(known, 1))
        dying_known = await dying._streams.living("a")
        client.die_at(calls)
        try:
            is_packed = await dying._packer.pack(dying_known)
        except StoreUnavailable:
            is_packed = False
        reader = await place.store()
        reader._packer.pack_soon = lambda stream_id: None  # type: ignore[method-assign]
        page = await reader.read("a", 7 * len(chunk) + 1, max_bytes=10)
        assert page.records[0].data == chunk[1:]
        if is_packed:
            break
    assert is_packed
    assert client.count("upload_part") == 2
    assert await content(await place.store(), "a") == chunk * 12


async def test_packers_that_race_leave_one_object(place: Place) -> None:
    await written(place, *CHUNKS)
    stores = [await place.store(grace=1) for _ in range(4)]
    knowns = [await store._streams.living("a") for store in stores]
    packs = [store._packer.pack(known) for store, known in zip(stores, knowns, strict=True)]
    assert sorted(await asyncio.gather(*packs)) == [False, False, False, True]
    assert len(place.keys("packed/")) == 1
    assert await content(stores[0], "a") == b"first" + b"".join(CHUNKS)


async def test_a_reader_sees_no_gap_when_its_stream_is_packed(
    place: Place,
) -> None:
    """It knows the segments, which are removed before it reads on."""
    store = await written(place, *CHUNKS)
    reader = await place.store(grace=1)
    begin = b"".join(each.data for each in (await reader.read("a", max_bytes=9000)).records)
    await store._packer.pack(await store._streams.living("a"))
    await until_swept(store, place, "segments/")
    assert begin + await content(reader, "a", len(begin)) == b"first" + b"".join(CHUNKS)


async def test_remembered_segments_that_were_removed_are_not_taken_for_the_end(
    place: Place,
) -> None:
    """A process sleeps while the stream grows and is packed. When it wakes, the next segment is
    missing, but it must not conclude that the last segment it knows is the end."""
    store = await place.store(grace=1)
    sleeper = await place.store(grace=1)
    await store.create("a")
    await store.append("a", b"one")
    assert (await sleeper.info("a")).tail == 3
    await store.append("a", b"two")
    await store.append("a", b"three", state="done")
    await store._packer.idle()
    await until_swept(store, place, "segments/")
    info = await sleeper.info("a")
    assert (info.tail, info.state) == (11, "done")
    assert await content(sleeper, "a") == b"onetwothree"


async def test_a_stream_that_was_never_packed_is_packed_by_a_sweep(place: Place) -> None:
    store = await written(place, *CHUNKS)
    other = await place.store(grace=1)
    await eventually(lambda: bool(place.keys("packed/")), other.sweep)
    await until_swept(other, place, "segments/")
    assert await content(store, "a") == b"first" + b"".join(CHUNKS)


async def test_packing_twice_changes_nothing(place: Place) -> None:
    store = await written(place, *CHUNKS)
    await store._packer.pack(await store._streams.living("a"))
    before = place.keys()
    assert await store._packer.pack(await store._streams.living("a"))
    assert place.keys() == before


async def test_a_stream_that_lacks_a_record_is_not_packed(place: Place) -> None:
    store = await written(place, *CHUNKS)
    known = await store._streams.living("a")
    known = known._replace(info=known.info._replace(tail=known.info.tail + 1))
    with pytest.raises(CorruptData):
        await store._packer.pack(known)
    assert place.keys("packed/") == []


@on_conditional_removal
async def test_a_packed_stream_can_expire_and_be_deleted(place: Place) -> None:
    store = await written(place, *CHUNKS)
    await store._packer.pack(await store._streams.living("a"))
    version = (await store.info("a")).version
    info = await store.expire("a", 50)
    assert (info.ttl, info.version) == (50, version)
    other = await place.store(grace=1)
    assert await other.info("a") == info
    assert await content(other, "a") == b"first" + b"".join(CHUNKS)
    await other.delete("a")
    with pytest.raises(StreamNotFound):
        await store.info("a")
    assert place.keys("packed/") == []
    assert place.keys("streams/") == []


async def test_the_expiry_of_a_finished_stream_moves_before_it_is_packed(place: Place) -> None:
    store = await written(place, *CHUNKS)
    info = await store.expire("a", 50)
    other = await place.store(grace=1)
    assert await other.info("a") == info
    assert await content(other, "a") == b"first" + b"".join(CHUNKS)
    await other._packer.pack(await other._streams.living("a"))
    assert await store.info("a") == info
    assert await content(store, "a") == b"first" + b"".join(CHUNKS)


async def test_a_large_stream_is_packed_in_parts_and_read_by_ranges(place: Place) -> None:
    store = await place.store()
    await store.create("a")
    megabyte = bytes(range(256)) * 4096
    for _ in range(7):
        await store.append("a", *[megabyte] * 15)
    await store.mark_done("a")
    await store._packer.idle()
    assert len(place.keys("packed/")) == 1
    reader, client = await place.recorded()
    at = 77 * 1_048_576 + 1000
    page = await reader.read("a", at, max_bytes=500_000)
    data = b"".join(record.data for record in page.records)
    assert page.info.tail == 105 * 1_048_576
    assert data == megabyte[1000:]
    assert len(client.calls) == 2
    at = page.info.tail - 10
    page = await reader.read("a", at)
    assert page.records[0].data == megabyte[-10:]
    assert page.next_offset == page.info.tail
