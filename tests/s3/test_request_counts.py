"""What calls cost, counted in requests."""

from __future__ import annotations

import asyncio
import time

import pytest

from streamstores import S3StreamStore, StreamWriter, follow
from streamstores.backends._s3 import change_requests
from tests.s3.conftest import Place, on_conditional_removal
from tests.s3.recording_client import RecordingClient

PUT, GET, LIST = "put_object", "get_object", "list_objects_v2"


def requests(client: RecordingClient) -> list[str]:
    """The operations since the last call of this function."""
    found = [name for name, _ in client.calls]
    client.forget()
    return found


async def finish(store: S3StreamStore, stream_id: str, client: RecordingClient) -> None:
    """End a stream and wait until it is packed."""
    await store.mark_done(stream_id)
    await store._packer.idle()
    client.forget()


@on_conditional_removal
async def test_opening_makes_thirty_seven_requests(place: Place) -> None:
    client = RecordingClient(place.server)
    url = f"s3://{place.server.bucket}/{place.server.prefix}{place.prefix}"
    async with S3StreamStore(url, client=client):
        counts = [client.count(each) for each in (PUT, GET, LIST, "delete_object")]
    assert counts == [26, 6, 1, 4]
    client.close()


@on_conditional_removal
async def test_each_call_makes_the_documented_requests(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is, the second `expire` moves the end too little to be written.
    monkeypatch.setattr(change_requests, "_SAME_END_SECONDS", 3600)
    store, client = await place.recorded()
    await store.create("a", b"0")
    assert requests(client) == [PUT]
    await store.append("a", b"1", b"2")
    assert requests(client) == [PUT]
    await store.append("a")
    assert requests(client) == [PUT]
    await store.info("a")
    assert requests(client) == [GET]
    await store.read("a")
    assert requests(client) == [GET]  # what this process wrote it need not fetch
    await store.expire("a", 86_400)
    assert requests(client) == [PUT, PUT]
    await store.expire("a", 86_400)
    assert requests(client) == [GET]
    await store.delete("a")
    assert requests(client) == [PUT, PUT, "delete_object"]


async def test_create_with_an_expiry_makes_two_requests(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a", ttl=60)
    assert requests(client) == [PUT, PUT]
    await store.append("a", b"the end slides")
    assert requests(client) == [PUT]


async def test_the_first_info_of_a_foreign_stream_makes_three_requests(place: Place) -> None:
    writer = await place.store()
    await writer.create("a")
    for _ in range(50):
        await writer.append("a", b"x")
    reader, client = await place.recorded()
    await reader.info("a")
    assert requests(client) == [GET, LIST, GET]
    await reader.info("a")
    assert requests(client) == [GET]


async def test_a_reader_far_behind_skips_segments(place: Place) -> None:
    writer = await place.store()
    await writer.create("a")
    reader, client = await place.recorded()
    await reader.info("a")
    for _ in range(50):
        await writer.append("a", b"x")
    client.forget()
    assert (await reader.info("a")).tail == 50
    assert len(client.calls) <= 6


async def test_a_small_finished_stream_replays_in_one_request(place: Place) -> None:
    writer, client = await place.recorded()
    await writer.create("a")
    for _ in range(100):
        await writer.append("a", b"some words ")
    await finish(writer, "a", client)
    reader, client = await place.recorded()
    records = [record async for record in follow(reader, "a")]
    assert len(records) == 100
    assert requests(client) == [GET]


async def test_a_larger_finished_stream_replays_in_two_requests(place: Place) -> None:
    writer, client = await place.recorded()
    await writer.create("a")
    for _ in range(20):
        await writer.append("a", *[b"x" * 1000] * 20)
    await finish(writer, "a", client)
    reader, client = await place.recorded()
    page = await reader.read("a")
    assert page.next_offset == page.info.tail == 400_000
    assert requests(client) == [GET, GET]


async def test_appends_at_once_go_out_together(place: Place) -> None:
    store, client = await place.recorded()
    first = await store.create("a")
    client.forget()
    infos = await asyncio.gather(*(store.append("a", b"%03d" % n) for n in range(200)))
    assert [info.version - first.version for info in infos] == list(range(1, 201))
    assert [info.tail for info in infos] == list(range(3, 603, 3))
    assert client.count(PUT) <= 3
    data = b"".join(record.data for record in (await store.read("a")).records)
    assert data == b"".join(b"%03d" % n for n in range(200))


async def test_looks_at_once_share_their_requests(place: Place) -> None:
    store, client = await place.recorded()
    await store.create("a")
    client.forget()
    await asyncio.gather(*(store.info("a") for _ in range(100)))
    assert len(client.calls) <= 2


async def test_fifty_records_a_second_and_twenty_followers(place: Place) -> None:
    """The rates are per second of the run, so they hold on a slow machine as well."""
    writing, written = await place.recorded()
    following, followed = await place.recorded()
    info = await writing.create("a")
    followers = [asyncio.create_task(_collect(follow(following, "a"))) for _ in range(20)]
    written.forget()
    begun = time.monotonic()
    async with StreamWriter(writing, "a", info=info) as writer:
        for number in range(150):
            await writer.write(b"%03d" % number)
            await asyncio.sleep(0.02)
    seconds = time.monotonic() - begun
    expected = b"".join(b"%03d" % number for number in range(150))
    assert set(await asyncio.gather(*followers)) == {expected}
    assert written.count(PUT, "segments/") / seconds <= 5.5
    seconds = time.monotonic() - begun
    assert (followed.count(GET) - 4) / seconds <= 5.0  # 3 to join, 1 for the end


async def _collect(follower: object) -> bytes:
    return b"".join([record.data async for record in follower])  # type: ignore[attr-defined]


async def test_followers_beside_their_producer_cost_nothing(place: Place) -> None:
    # On a busy machine an append may take longer than the usual pause between two polls.
    store, client = await place.recorded(poll_min=60, poll_max=60)
    await store.create("a", b"0")
    readers = [follow(store, "a") for _ in range(5)]
    for each in readers:
        assert (await anext(each)).data == b"0"
    followers = [asyncio.create_task(_collect(each)) for each in readers]
    client.forget()
    for _ in range(20):
        await store.append("a", b"x")
        await asyncio.sleep(0.02)
    await store.append("a", b"x", state="done")
    assert set(await asyncio.gather(*followers)) == {b"x" * 21}
    assert client.count(GET) <= 3


async def test_a_read_in_the_middle_of_many_segments_finds_its_place(place: Place) -> None:
    writer = await place.store()
    await writer.create("a")
    for number in range(300):
        await writer.append("a", b"%04d" % number)
    reader, client = await place.recorded()
    await reader.info("a")
    client.forget()
    page = await reader.read("a", 4 * 137 + 2, max_bytes=4)
    assert page.records[0].data == b"37"
    assert client.count(GET) <= 6
