"""Listings in pages, as real servers send them: empty, short, repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from streamstores import S3StreamStore, StoreUnavailable
from tests.s3.opening import opened_in_time
from tests.services.s3_objects import StoredObject, listing, listing_of
from tests.services.scripted_s3 import Exchange, ScriptedS3, answer_with, scripted_s3

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as server:
        yield server


@contextlib.asynccontextmanager
async def opened(server: ScriptedS3, **options: object) -> AsyncIterator[S3StreamStore]:
    async with opened_in_time(server, timeout=3, grace=1, **options) as store:
        yield store


async def ids(store: S3StreamStore) -> list[str]:
    return sorted([info.id async for info in store.list()])


def empty_pages(count: int) -> object:
    """Empty pages that announce more, before the right pages."""
    sent = [0]

    def fault(exchange: Exchange) -> None:
        sent[0] += 1
        if sent[0] <= count:
            prefix = exchange.request.prefix
            exchange.answer(listing(prefix, next_token=f"!{sent[0]:06}"))
        else:
            exchange.answer(exchange.apply())

    return fault


async def test_short_pages_are_put_together(server: ScriptedS3) -> None:
    server.objects.quirks.page_keys = 2
    async with opened(server) as store:
        for number in range(5):
            await store.create(f"a{number}", b"x")
            await store.append(f"a{number}", b"y")
        assert await ids(store) == [f"a{number}" for number in range(5)]
    async with opened(server) as store:
        assert (await store.info("a3")).tail == 2
        assert await store.sweep() == 0


async def test_an_empty_page_that_is_not_the_last_does_not_shorten_a_stream(
    server: ScriptedS3,
) -> None:
    async with opened(server) as store:
        await store.create("a", b"x")
        for _ in range(10):
            await store.append("a", b"y")
    async with opened(server) as store:
        server.spoil(listing_of(), empty_pages(3), times=0)  # type: ignore[arg-type]
        assert (await store.info("a")).tail == 11
    async with opened(server) as store:
        server.mend()
        server.spoil(listing_of(), empty_pages(3), times=0)  # type: ignore[arg-type]
        assert await ids(store) == ["a"]


@pytest.mark.parametrize("has_keys", [True, False])
async def test_a_page_that_is_repeated_ends_with_an_error(
    server: ScriptedS3, has_keys: bool
) -> None:
    async with opened(server) as store:
        await store.create("a", b"x")
        await store.append("a", b"y")

        def repeat(exchange: Exchange) -> None:
            prefix = exchange.request.prefix
            names = server.keys(prefix)[:1] if has_keys else []
            found = [(name, StoredObject(b"", "0", 0.0)) for name in names]
            exchange.answer(listing(prefix, found, next_token="again"))

        server.spoil(listing_of(), repeat, times=0)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(ids(store), 10)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.sweep(), 10)
        assert server.count(listing_of()) < 20


async def test_empty_pages_without_end_are_an_error(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a", b"x")
        server.spoil(listing_of(), empty_pages(10**6), times=0)  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(ids(store), 30)
        assert server.count(listing_of()) < 200


async def test_a_listing_in_no_order_is_an_error(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a")
        await store.create("b")
        server.objects.quirks.shuffles_listings = True
        with pytest.raises(StoreUnavailable):
            await ids(store)


async def test_an_empty_page_marked_truncated_is_an_error(server: ScriptedS3) -> None:
    async with opened(server) as store:
        await store.create("a", b"x")
        await store.append("a", b"y")
    async with opened(server) as store:
        for part in ("streams/", "segments/"):
            wrong = answer_with(listing(f"p/{part}", is_truncated=True))
            server.spoil(listing_of(part), wrong, times=0)
        with pytest.raises(StoreUnavailable):
            await ids(store)
        with pytest.raises(StoreUnavailable):
            await store.info("a")
