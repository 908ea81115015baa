"""A server whose disk is full: what callers learn, and that nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from streamstores import OutcomeUnknown, StoreUnavailable, StreamWriter, open_store
from tests.postgres.conftest import new_id
from tests.services import Unavailable, give_up
from tests.services.postgres import OwnServer, own_server, with_options
from tests.services.small_disk import SmallDisk, small_disk

RECORD = bytes(range(256)) * 128
PATIENCE = 120.0


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk(256) as disk:
        yield disk


@pytest.fixture
def server(disk: SmallDisk) -> Iterator[OwnServer]:
    try:
        with own_server(place=disk.folder) as server:
            yield server
    except Unavailable as exc:
        give_up("postgres", exc)


async def test_a_full_disk_refuses_appends_and_not_reads(disk, server):
    stream_id, acknowledged = new_id(), 0
    async with open_store(with_options(server.url, timeout=5, command_timeout=5)) as store:
        await store.create(stream_id)
        disk.fill()
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            while True:
                await store.append(stream_id, RECORD)
                acknowledged += 1
        page = await store.read(stream_id, max_bytes=100 * len(RECORD))
        assert [record.data for record in page.records] == [RECORD] * acknowledged
        disk.free()
        info = await store.append(stream_id, b"there is room", state="done")
        assert info.tail == page.info.tail + len(b"there is room")


async def test_a_writer_goes_on_when_there_is_room_again(disk, server):
    """Also if the server has ended meanwhile, as it does if it cannot write its log."""
    stream_id = new_id()
    async with open_store(with_options(server.url, timeout=5, command_timeout=5)) as store:
        await store.create(stream_id)
        writer = StreamWriter(store, stream_id, retry_for=PATIENCE)
        disk.fill()
        for _ in range(20):
            await writer.write(RECORD)
        await _until_refused(store)
        disk.free()
        await asyncio.to_thread(server.restart)
        await writer.aclose("done")
        page = await store.read(stream_id, max_bytes=100 * len(RECORD))
    assert [record.data for record in page.records] == [RECORD] * 20
    assert page.info.state == "done"


async def _until_refused(store) -> None:
    with suppress(StoreUnavailable, OutcomeUnknown):
        while True:
            await store.create(new_id(), RECORD)
