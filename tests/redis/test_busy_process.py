"""A process that is busier than its connection: what is late is not taken for lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from streamstores import StoreUnavailable, StreamStoreError, open_store
from streamstores.conformance.faults import Proxy
from streamstores.conformance.faults.store_address import address_of, with_address
from tests.services import redis

TIMEOUT_SECONDS = 1.0
CALLS = 300
REPLY_BYTES_A_SECOND = 15_000  # so that the replies to all calls take three times the timeout


class SlowProxy(Proxy):
    """Delivers replies one small piece after another."""

    async def _carry(self, near, far) -> None:
        async def deliver() -> None:
            while data := await far[0].read(64):
                near[1].write(data)
                await near[1].drain()
                await asyncio.sleep(len(data) / REPLY_BYTES_A_SECOND)
            near[1].close()

        async def ask() -> None:
            while data := await near[0].read(65_536):
                far[1].write(data)
            far[1].close()

        await asyncio.gather(ask(), deliver())


@pytest.fixture
def url() -> str:
    address = redis.with_own_prefix(redis.shared())
    return redis.with_options(address, timeout=TIMEOUT_SECONDS)


@pytest.fixture
def slow(url: str) -> Iterator[str]:
    host, port = address_of(url)
    with SlowProxy(port, target_host=host) as proxy:
        yield with_address(url, "127.0.0.1", proxy.port)


async def test_a_call_may_wait_longer_than_the_timeout_while_replies_come(slow: str) -> None:
    async with open_store(slow) as store:
        await store.create("s")
        begun_at = time.monotonic()
        await asyncio.gather(*(store.append("s", b"x") for _ in range(CALLS)))
        assert time.monotonic() - begun_at > 1.5 * TIMEOUT_SECONDS, "replies were not slow"
        assert (await store.info("s")).tail == CALLS


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_reply_that_has_arrived_is_read_before_it_is_missed(url: str, kind: str) -> None:
    """Also if the process did something else for longer than the timeout."""

    async def work() -> None:
        async with open_store(url) as store:
            await store.create("s")
            for pause in (1.3, 2.1):
                asking = asyncio.ensure_future(store.append("s", b"x"))
                await asyncio.sleep(0)  # it is sent
                time.sleep(pause * TIMEOUT_SECONDS)
                await asking

    loop: asyncio.AbstractEventLoop = pytest.importorskip(kind).new_event_loop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


async def test_a_server_that_falls_silent_is_noticed_in_the_middle_of_replies(url: str) -> None:
    host, port = address_of(url)
    with Proxy(port, target_host=host) as proxy:
        async with open_store(with_address(url, "127.0.0.1", proxy.port)) as store:
            await store.create("s")
            begun_at = time.monotonic()
            calls = [asyncio.ensure_future(store.append("s", b"x")) for _ in range(CALLS)]
            await calls[0]
            proxy.mute()
            more = [asyncio.ensure_future(store.info("s")) for _ in range(CALLS)]
            results = await asyncio.gather(*calls, *more, return_exceptions=True)
            failed = [each for each in results if isinstance(each, BaseException)]
            assert failed
            assert all(isinstance(each, StreamStoreError) for each in failed)
            assert any(isinstance(each, StoreUnavailable) for each in failed)
            assert time.monotonic() - begun_at < 60
            proxy.unmute()
