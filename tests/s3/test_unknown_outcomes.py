"""Which error a caller gets: `StoreUnavailable` promises that nothing was applied."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from streamstores import OutcomeUnknown, S3StreamStore, StoreUnavailable, StreamNotFound, follow
from tests.s3.opening import opened_in_time, set_timeout
from tests.services import PATIENCE
from tests.services.s3_objects import Wanted, anything, get_of, put_of
from tests.services.scripted_s3 import (
    Fault,
    ScriptedS3,
    fail_with,
    lose_answer,
    lose_request,
    scripted_s3,
    stall,
)

PAST = datetime(2001, 2, 3, tzinfo=timezone.utc)


pytestmark = [pytest.mark.usefixtures("quick_retries"), pytest.mark.long]


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as server:
        yield server


@contextlib.asynccontextmanager
async def opened(server: ScriptedS3, **options: object) -> AsyncIterator[S3StreamStore]:
    async with opened_in_time(server, timeout=3, **options) as store:
        yield store
        server.mend()


def delete_of(part: str) -> Wanted:
    return lambda request: request.method == "DELETE" and part in request.key


async def packed(store: S3StreamStore, stream_id: str) -> None:
    await store.create(stream_id, b"x", state="done")
    await store._packer.idle()


Call = Callable[[S3StreamStore], Awaitable[Any]]

# What prepares the stream; the call; the part of the key that its deciding write has.
CHANGES: dict[str, tuple[Call, Call, Wanted]] = {
    "append": (
        lambda store: store.create("a"),
        lambda store: store.append("a", b"x"),
        put_of("segments/"),
    ),
    "append under a version": (
        lambda store: store.create("a"),
        lambda store: store.append("a", b"x", at=0),
        put_of("segments/"),
    ),
    "mark_done": (
        lambda store: store.create("a"),
        lambda store: store.mark_done("a"),
        put_of("segments/"),
    ),
    "expire": (
        lambda store: store.create("a"),
        lambda store: store.expire("a", 60),
        put_of("segments/"),
    ),
    "delete": (
        lambda store: store.create("a"),
        lambda store: store.delete("a"),
        put_of("segments/"),
    ),
    "create": (
        lambda store: store.info("other"),
        lambda store: store.create("a", b"x"),
        put_of("streams/"),
    ),
    "create over an expired stream": (
        lambda store: store.create("a", expires_at=PAST),
        lambda store: store.create("a", b"x"),
        lambda request: put_of("streams/")(request) and "if-match" in request.headers,
    ),
    "expire of a finished stream": (
        lambda store: packed(store, "a"),
        lambda store: store.expire("a", 60),
        put_of("streams/"),
    ),
}


@pytest.mark.parametrize(
    "fault", [fail_with(503, "SlowDown"), lose_request], ids=["503", "reset"]
)
@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_landed_and_cannot_be_looked_for_is_unknown(
    server: ScriptedS3, name: str, fault: Fault
) -> None:
    """The answer of the write is lost, its second try is refused by what the first has
    written, and the object cannot be read to learn whose it is."""
    prepare, change, write = CHANGES[name]
    async with opened(server) as store:
        with contextlib.suppress(Exception):
            await prepare(store)
        seen = server.count(write)

        def is_after_the_write(request: Any) -> bool:
            return server.count(write) > seen and request.method == "GET"

        server.spoil(write, lose_answer)
        server.spoil(is_after_the_write, fault, times=0)
        with pytest.raises(OutcomeUnknown):
            await change(store)


async def test_a_deletion_that_landed_without_any_answer_is_unknown(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await packed(store, "a")
        server.spoil(delete_of("streams/"), lose_answer, times=0)
        with pytest.raises(OutcomeUnknown):
            await store.delete("a")


@pytest.mark.parametrize(
    "fault", [fail_with(503, "SlowDown"), lose_request], ids=["503", "reset"]
)
async def test_an_append_near_the_expiry_that_cannot_be_checked_is_unknown(
    server: ScriptedS3, fault: Fault
) -> None:
    """The write succeeds within two seconds of the expiry; its date on S3 cannot be read."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    server.objects.quirks.clock_stands_at = now.timestamp()
    async with opened(server) as store:
        await store.create("a", expires_at=now + timedelta(seconds=2))
        server.spoil(get_of("segments/"), fault, times=0)
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")


async def test_an_append_whose_chain_cannot_be_verified_is_unknown(server: ScriptedS3) -> None:
    """The stream was last seen longer ago than a quarter of `grace`."""
    async with opened(server, grace=1) as store:
        await store.create("a")
        # The dates of S3's answers are whole seconds.
        server.objects.quirks.clock_ahead_seconds = 5
        server.spoil(get_of("streams/"), fail_with(503, "SlowDown"), times=0)
        with pytest.raises(OutcomeUnknown):
            await store.append("a", b"x")


@pytest.mark.parametrize(("fault", "landed"), [(lose_answer, True), (lose_request, False)])
async def test_a_calendar_entry_in_doubt_applies_nothing(
    server: ScriptedS3, fault: Fault, landed: bool
) -> None:
    """An entry of the calendar too many is no change of a stream."""
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("due/"), fault, times=0)
        for call in (store.create("b", ttl=60), store.expire("a", 60)):
            with pytest.raises(StoreUnavailable):
                await call
        assert bool(server.keys("due/")) == landed
        server.mend()
        assert (await store.create("b", ttl=60)).tail == 0


async def test_a_batch_that_is_cancelled_in_mid_write_is_unknown(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("segments/"), stall)
        append = asyncio.create_task(store.append("a", b"x"))
        while not server.count(put_of("segments/")):
            await asyncio.sleep(0.01)
        for task in list(store._commits._tasks._tasks):
            task.cancel()
        with pytest.raises(OutcomeUnknown):
            await append


@pytest.mark.parametrize(
    ("name", "expected"), [("create", "a"), ("expire of a finished stream", "a")]
)
async def test_a_head_that_was_written_without_any_answer_is_found(
    server: ScriptedS3, name: str, expected: str
) -> None:
    prepare, change, write = CHANGES[name]
    async with opened(server) as store:
        with contextlib.suppress(StreamNotFound):
            await prepare(store)
        server.spoil(write, lose_answer)
        server.spoil(write, lose_request, times=5)
        assert (await change(store)).id == expected


READS: dict[str, Call] = {
    "info": lambda store: store.info("a"),
    "read": lambda store: store.read("a"),
    "wait": lambda store: store.wait("a", version=0, timeout=5),
    "list": lambda store: _all(store.list()),
    "follow": lambda store: _all(follow(store, "a")),
    "sweep": lambda store: store.sweep(),
}


async def _all(records: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in records]


@pytest.mark.parametrize("fault", [lose_answer, stall], ids=["lost", "stalled"])
@pytest.mark.parametrize("name", READS)
async def test_reading_never_raises_an_unknown_outcome(
    server: ScriptedS3, name: str, fault: Fault
) -> None:
    """Not even if it is the first call, which opens the store and so writes a probe."""
    store = S3StreamStore(server.store_url("p", timeout=1.5))
    server.spoil(anything, fault, times=0)
    with pytest.raises(StoreUnavailable):
        await READS[name](store)
    server.mend()
    set_timeout(store, PATIENCE)
    await store.create("a", state="done")
    await READS[name](store)
    set_timeout(store, 1.5)
    server.spoil(anything, fault, times=0)
    with pytest.raises(StoreUnavailable):
        await READS[name](store)
    server.mend()
    await store.aclose()


@pytest.mark.parametrize("fault", [lose_answer, stall], ids=["lost", "stalled"])
async def test_a_mutation_that_fails_while_the_store_opens_applies_nothing(
    server: ScriptedS3, fault: Fault
) -> None:
    store = S3StreamStore(server.store_url("p", timeout=1.5))
    server.spoil(put_of("probe/"), fault, times=0)
    with pytest.raises(StoreUnavailable):
        await store.create("a")
    server.mend()
    set_timeout(store, PATIENCE)
    await store.create("a")
    await store.aclose()


async def test_a_sweep_in_doubt_may_be_repeated(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a", expires_at=PAST)
        server.spoil(put_of("segments/"), lose_answer, times=0)
        server.spoil(get_of("segments/"), lose_request, times=0)
        with pytest.raises(StoreUnavailable):
            await store.sweep()
        server.mend()
        assert await store.sweep() <= 1
        assert not server.keys("streams/")
