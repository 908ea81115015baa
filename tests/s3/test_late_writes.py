"""A write without an answer may arrive later. What was read in between stays true."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from streamstores import (
    OutcomeUnknown,
    S3StreamStore,
    StoreUnavailable,
    StreamNotFound,
    StreamWriter,
)
from tests.s3.conftest import eventually
from tests.services.s3_objects import get_of, put_of
from tests.services.scripted_s3 import ScriptedS3, arrive_late, lose_request, scripted_s3

TRIES = 4


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as server:
        yield server


@contextlib.asynccontextmanager
async def opened(server: ScriptedS3) -> AsyncIterator[S3StreamStore]:
    async with S3StreamStore(server.store_url("p")) as store:
        yield store


async def content(store: S3StreamStore, stream_id: str) -> bytes:
    return b"".join(record.data for record in (await store.read(stream_id)).records)


class Late:
    """Writes whose connection breaks at once, and which arrive when the test releases them."""

    def __init__(self, server: ScriptedS3) -> None:
        self._may_arrive = threading.Event()
        self._server = server
        self._arrived = 0
        late = arrive_late(self._may_arrive)

        def fault(exchange: object) -> None:
            late(exchange)  # type: ignore[arg-type]
            self._arrived += 1

        self.fault = fault

    async def let_in(self, count: int) -> None:
        async def nothing() -> None:
            return None

        self._may_arrive.set()
        await eventually(lambda: self._arrived >= count, nothing)


async def test_a_write_that_did_not_arrive_is_shut_out_and_reported_as_not_applied(
    server: ScriptedS3,
) -> None:
    """Another segment takes its key, so that a plain retry cannot double the append."""
    late = Late(server)
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("segments/"), late.fault, times=TRIES)
        with pytest.raises(StoreUnavailable):
            await store.append("a", b"x")
        await late.let_in(TRIES)
        await store.append("a", b"x")
        assert await content(store, "a") == b"x"
    async with opened(server) as other:
        assert await content(other, "a") == b"x"


@pytest.mark.parametrize("read", ["info", "read", "wait"])
async def test_a_read_after_an_unknown_outcome_is_final(server: ScriptedS3, read: str) -> None:
    late = Late(server)
    async with opened(server) as store:
        info = await store.create("a")
        server.spoil(put_of("segments/"), late.fault, times=TRIES)
        server.spoil(put_of("segments/"), lose_request, times=TRIES)
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")
        if read == "info":
            assert (await store.info("a")).tail == 0
        elif read == "read":
            assert (await store.read("a")).next_offset == 0
        else:
            assert (await store.wait("a", version=info.version, timeout=0)).tail == 0
        await late.let_in(TRIES)
        assert (await store.info("a")).tail == 0
        await store.append("a", b"x")
        assert await content(store, "a") == b"x"


async def test_a_read_that_cannot_make_it_final_is_unavailable(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("segments/"), lose_request, times=2 * TRIES)
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")
        server.spoil(put_of("segments/"), lose_request, times=0)
        with pytest.raises(StoreUnavailable):
            await store.info("a")
        server.mend()
        assert (await store.info("a")).tail == 0


async def test_a_write_that_did_arrive_is_found_by_the_next_read(server: ScriptedS3) -> None:
    late = Late(server)
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("segments/"), late.fault, times=TRIES)
        server.spoil(get_of("segments/"), lose_request, times=TRIES)
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")
        await late.let_in(TRIES)
        assert (await store.info("a")).tail == 1
        assert server.count(put_of("segments/")) == TRIES


async def test_a_delete_that_did_not_arrive_is_shut_out_too(server: ScriptedS3) -> None:
    late = Late(server)
    async with opened(server) as store:
        await store.create("a", b"x")
        server.spoil(put_of("segments/"), late.fault, times=TRIES)
        with pytest.raises(StoreUnavailable):
            await store.delete("a")
        await late.let_in(TRIES)
        assert await content(store, "a") == b"x"
        await store.delete("a")
        with pytest.raises(StreamNotFound):
            await store.info("a")


async def test_a_writer_beside_late_writes_neither_loses_nor_doubles(
    server: ScriptedS3,
) -> None:
    late = Late(server)
    async with opened(server) as store:
        info = await store.create("a")
        async with StreamWriter(store, "a", info=info, retry_for=60) as writer:
            for number in range(4):
                server.spoil(put_of("segments/"), late.fault, times=TRIES + number)
                await writer.write(b"%d" % number)
                await writer.flush()
        await late.let_in(TRIES)
    async with opened(server) as other:
        assert await content(other, "a") == b"0123"
