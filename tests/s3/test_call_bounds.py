"""No call outlasts its timeout, whatever the server does, and a call that hangs holds up
nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamstores import OutcomeUnknown, S3StreamStore, StoreUnavailable, StreamStoreError
from tests.s3.opening import opened_in_time, set_timeout
from tests.services.s3_objects import Request, Wanted, anything, get_of, put_of
from tests.services.scripted_s3 import (
    Fault,
    ScriptedS3,
    cut_in_100_continue,
    delay,
    scripted_s3,
    stall,
    stall_in_the_body,
    trickle,
    trickle_headers,
)

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
FOREVER = 20.0  # seconds: many times a timeout, and far less than a call that hangs


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as server:
        yield server


def opened(
    server: ScriptedS3, timeout: float = 2, **options: object
) -> contextlib.AbstractAsyncContextManager[S3StreamStore]:
    return opened_in_time(server, timeout=timeout, **options)


def is_continue(request: Request) -> bool:
    return request.method == "CONTINUE"


async def test_a_write_expects_no_100_continue(server: ScriptedS3) -> None:
    """boto3 loops for ever if the connection ends inside that answer."""
    server.spoil(is_continue, cut_in_100_continue, times=0)
    async with opened(server) as store:
        await store.create("a")
        await store.append("a", b"x")
        chunk = b"x" * 1_048_576
        await store.append("a", *[chunk] * 10, state="done")
        await store._packer.idle()
    assert len(server.keys("packed/")) == 1
    assert not any("expect" in request.headers for request in server.requests)


async def test_a_write_with_a_passed_in_client_expects_no_100_continue_either(
    server: ScriptedS3,
) -> None:
    """The setting is made for the store's calls only, not for other users of the client."""
    client = server.place.client()
    async with S3StreamStore("s3://streams/p", client=client) as store:
        await store.create("a")
        await store.append("a", b"x")
    assert not any("expect" in request.headers for request in server.requests)
    await asyncio.to_thread(client.put_object, Bucket="streams", Key="theirs", Body=b"x")
    client.close()
    assert "expect" in server.requests[-1].headers


HANGS: dict[str, Fault] = {
    "stall": stall,
    "stall in the body": stall_in_the_body,
    "trickle": trickle,
    "trickle of the headers": trickle_headers,
}
KINDS: dict[str, Wanted] = {
    "heads": get_of("streams/"),
    "segments": get_of("segments/"),
    "listings": lambda request: request.is_listing,
}


async def written(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a", b"x" * 100)
        await store.append("a", b"y" * 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HANGS)
async def test_a_read_ends_when_its_time_is_over(
    server: ScriptedS3, name: str, kind: str
) -> None:
    await written(server)
    async with opened(server) as store:
        server.spoil(KINDS[kind], HANGS[name], times=0)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.read("a"), FOREVER)


@pytest.mark.parametrize("name", HANGS)
async def test_a_write_ends_when_its_time_is_over(server: ScriptedS3, name: str) -> None:
    await written(server)
    async with opened(server) as store:
        await store.info("a")
        server.spoil(put_of("segments/"), HANGS[name], times=0)
        server.spoil(get_of("segments/"), HANGS[name], times=0)
        with contextlib.suppress(OutcomeUnknown):  # PUT is answered in its headers
            await asyncio.wait_for(store.append("a", b"z"), FOREVER)


async def test_calls_that_hang_leave_room_for_others(server: ScriptedS3) -> None:
    """There are many more calls than connections, and none of the calls ends."""
    await written(server)
    async with opened(server, max_connections=4) as store:
        await store.info("a")
        server.spoil(get_of("segments/"), trickle_headers, times=0)
        for _ in range(3):
            hanging = [store.append(f"b{number}") for number in range(20)]
            hanging += [store.info("a") for _ in range(5)]
            await asyncio.wait_for(asyncio.gather(*hanging, return_exceptions=True), FOREVER)
            info = await asyncio.wait_for(store.create(f"c{time.monotonic()}", b"x"), FOREVER)
            assert info.tail == 1


async def test_too_many_calls_that_hang_are_an_error_at_once(server: ScriptedS3) -> None:
    """They are given up on, but each holds a thread until it ends by itself."""
    await written(server)
    async with opened(server, timeout=1, max_connections=1) as store:
        await store.info("a")
        server.spoil(anything, trickle_headers, times=0)
        for _ in range(8):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(store.info("a"), FOREVER)
        with pytest.raises(StoreUnavailable, match="hang"):
            await store.info("a")
        server.mend()
        while True:
            with contextlib.suppress(StreamStoreError):
                assert (await store.info("a")).tail == 200
                break


@pytest.mark.parametrize("name", HANGS)
async def test_closing_waits_for_nothing_that_hangs(server: ScriptedS3, name: str) -> None:
    await written(server)
    store = S3StreamStore(server.store_url("p", timeout=60))
    await store.info("a")
    set_timeout(store, 2)
    server.spoil(anything, HANGS[name], times=0)
    calls = [
        store.append("a", b"z"),
        store.create("b"),
        store.info("a"),
        store.read("a"),
        store.mark_done("a"),
        store.sweep(),
    ]
    tasks = [asyncio.create_task(call) for call in calls]  # type: ignore[var-annotated,arg-type]
    while len(server.requests) < 3:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(store.aclose(), FOREVER)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), FOREVER)
    failed = [each for each in results if isinstance(each, BaseException)]
    assert failed
    assert all(isinstance(each, StreamStoreError) for each in failed)


async def test_closing_does_not_wait_for_a_packer_that_hangs(server: ScriptedS3) -> None:
    store = S3StreamStore(server.store_url("p", timeout=60))
    await store.create("a", b"x" * 100_000)
    set_timeout(store, 2)
    server.spoil(put_of("packed/"), stall, times=0)
    server.spoil(lambda request: request.method == "DELETE", stall, times=0)
    await store.append("a", b"y", state="done")
    while not server.count(put_of("packed/")):
        await asyncio.sleep(0.01)
    await asyncio.wait_for(store.aclose(), FOREVER)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not any(request.method == "DELETE" for request in server.requests[-3:])


async def test_closing_a_store_that_is_being_opened_leaves_no_task(server: ScriptedS3) -> None:
    store = S3StreamStore(server.store_url("p", timeout=2))
    server.spoil(put_of("probe/"), delay(0.2))
    call = asyncio.create_task(store.info("a"))
    while not server.count(put_of("probe/")):
        await asyncio.sleep(0.01)
    await asyncio.wait_for(store.aclose(), FOREVER)
    with pytest.raises(StreamStoreError):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_call_leaves_its_thread_to_others(server: ScriptedS3) -> None:
    await written(server)
    async with opened(server, max_connections=1) as store:
        await store.info("a")
        server.spoil(get_of("segments/"), stall)
        call = asyncio.create_task(store.info("a"))
        while not server.count(get_of("segments/")):
            await asyncio.sleep(0.01)
        call.cancel()
        assert (await asyncio.wait_for(store.create("c"), FOREVER)).tail == 0


SCRIPT = """
import asyncio, sys
from streamstores import S3StreamStore, StreamStoreError

async def main():
    store = S3StreamStore(sys.argv[1])
    try:
        await store.info("a")
    except StreamStoreError as exc:
        print(type(exc).__name__)
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.parametrize("name", HANGS)
async def test_a_process_ends_though_its_calls_hang(server: ScriptedS3, name: str) -> None:
    server.spoil(anything, HANGS[name], times=0)
    command = [sys.executable, "-c", SCRIPT, server.store_url("p", timeout=1.5)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() in {b"StoreUnavailable", b"StreamNotFound"}
