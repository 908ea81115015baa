"""A server that cannot write its append-only file: what callers learn, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamstores import StoreUnavailable, StreamStoreError, StreamWriter, open_store
from tests.services import Unavailable, give_up
from tests.services.redis import Server, own_server
from tests.services.small_disk import SmallDisk, small_disk

RECORD = bytes(range(256)) * 128


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk(16) as disk:
        yield disk


@pytest.fixture
def server(disk: SmallDisk) -> Iterator[Server]:
    persistence = ("--appendonly", "yes", "--appendfsync", "everysec")
    try:
        with own_server("valkey", "--dir", str(disk.folder), *persistence) as server:
            yield server
    except Unavailable as exc:
        give_up("redis", exc)


async def test_a_full_disk_refuses_appends_and_not_reads(disk, server):
    acknowledged = 0
    async with open_store(server.url) as store:
        await store.create("s")
        disk.fill()
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            while True:
                await store.append("s", RECORD)
                acknowledged += 1
        page = await store.read("s", max_bytes=100 * len(RECORD))
        assert [record.data for record in page.records] == [RECORD] * acknowledged


async def test_a_writer_goes_on_when_there_is_room_again_and_a_restart_loses_nothing(
    disk, server
):
    async with open_store(server.url) as store:
        await store.create("s")
        disk.fill()
        writer = StreamWriter(store, "s", retry_for=60)
        for _ in range(20):
            await writer.write(RECORD)
        with pytest.raises(StoreUnavailable):
            while True:
                await store.create("other", RECORD)
                await store.delete("other")
        disk.free()
        await writer.aclose("done")
    server.stop()  # in order: what is in memory goes to the file
    server.start()
    async with open_store(server.url) as store:
        page = await store.read("s", max_bytes=100 * len(RECORD))
    assert [record.data for record in page.records] == [RECORD] * 20
    assert page.info.state == "done"


async def test_with_durability_disk_nothing_is_acknowledged_that_no_disk_has(disk, server):
    async with open_store(f"{server.url}?durability=disk&timeout=2") as store:
        info = await store.create("s", b"on disk")
        disk.fill()
        acknowledged = 1
        with pytest.raises(StreamStoreError):
            while True:
                await store.append("s", RECORD)
                acknowledged += 1
    server.kill()
    disk.free()
    server.start()
    async with open_store(server.url) as store:
        page = await store.read("s", max_bytes=100 * len(RECORD))
    assert len(page.records) >= acknowledged
    assert page.info.tail >= info.tail
