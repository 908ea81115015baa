"""Which servers a store opens on: each kind of difference is tried, refused or coped with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import (
    InvalidRequest,
    S3StreamStore,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from tests.s3.opening import set_timeout
from tests.services import PATIENCE
from tests.services.s3_objects import get_of, put_of
from tests.services.scripted_s3 import ScriptedS3, fail_with, lose_answer, scripted_s3

pytestmark = pytest.mark.long

QUOTED, UNQUOTED = frozenset({"quoted"}), frozenset({"unquoted"})

# docs/stores/s3.md has these two tables for users.
SAFE: dict[str, dict[str, Any]] = {
    "as AWS": {},
    "ETags in quotes only": {"etag_forms": QUOTED},
    "ETags without quotes only (Ceph)": {"etag_forms": UNQUOTED},
    "DELETE ignores If-Match": {"deletes_under_condition": False},
    "DELETE refuses If-Match": {"refuses_conditional_delete": True},
    "Ceph 16": {"etag_forms": UNQUOTED, "deletes_under_condition": False},
    "GET ignores If-None-Match": {"compares_on_get": False},
    "a clock an hour ahead": {"clock_ahead_seconds": 3600.0},
    "a clock an hour behind": {"clock_ahead_seconds": -3600.0},
    "pages of two keys": {"page_keys": 2},
}
UNSAFE: dict[str, dict[str, Any]] = {
    "If-None-Match ignored": {"keeps_if_none_match": False},
    "If-Match ignored": {"keeps_if_match": False},
    "no condition kept": {"keeps_if_none_match": False, "keeps_if_match": False},
    "no form of an ETag taken": {"etag_forms": frozenset()},
    "checked without a lock": {"unlocked_seconds": 0.01},
    "listed in no order": {"shuffles_listings": True},
    "listed late": {"lists_after_seconds": 60.0},
}


@pytest.mark.parametrize("name", SAFE)
async def test_a_server_that_is_safe_is_used(name: str) -> None:
    """All that conditions decide later works there, in the way that was found to."""
    with scripted_s3(**SAFE[name]) as server:
        url = server.store_url("p", grace=1)
        async with S3StreamStore(url) as store, S3StreamStore(url) as other:
            assert server.keys("probe/") == []
            await store.create("a", b"x")
            await store.append("a", b"y", at=1)
            assert (await other.info("a")).tail == 2
            await other.append("a", b"z" * 100_000, state="done")
            await other._packer.idle()
            assert (await store.expire("a", 60)).ttl == 60
            assert (await other.info("a")).ttl == 60
            assert (await store.read("a", 2)).next_offset == 100_002
            await store.delete("a")
            for each in (store, other):
                with pytest.raises(StreamNotFound):
                    await each.info("a")
                with pytest.raises(StreamNotFound):
                    await each.delete("a")
            results = await asyncio.gather(
                *(each.create("a", b"new") for each in [store, other] * 4),
                return_exceptions=True,
            )
            lost = [each for each in results if isinstance(each, StreamExists)]
            assert len(lost) == len(results) - 1
            assert (await store.info("a")).tail == 3


@pytest.mark.parametrize("name", UNSAFE)
async def test_a_server_that_is_not_safe_is_refused(name: str) -> None:
    with scripted_s3(**UNSAFE[name]) as server:
        store = S3StreamStore(server.store_url("p"))
        with pytest.raises(InvalidRequest, match=r"docs/stores/s3\.md"):
            await store.create("a")
        server.objects.quirks.shuffles_listings = False
        await store.aclose()
        assert server.keys() == []


async def test_a_refused_server_is_probed_again_by_the_next_call() -> None:
    with scripted_s3(keeps_if_match=False) as server:
        store = S3StreamStore(server.store_url("p"))
        with pytest.raises(InvalidRequest):
            await store.create("a")
        server.objects.quirks.keeps_if_match = True
        await store.create("a")
        await store.aclose()


@pytest.mark.parametrize("status", [409, 500, 503])
async def test_a_probe_outlives_losers_that_are_told_to_try_again(status: int) -> None:
    with scripted_s3() as server:
        server.spoil(put_of("probe/"), fail_with(status, "Whatever"), times=3)
        server.spoil(put_of("probe/"), lose_answer, times=3)
        async with S3StreamStore(server.store_url("p")) as store:
            assert (await store.create("a")).tail == 0
        assert server.keys("probe/") == []


async def test_a_server_that_refuses_a_right_etag_later_is_given_up_on() -> None:
    """Retries end, and there is a pause between them."""
    with scripted_s3() as server:
        async with S3StreamStore(server.store_url("p", timeout=PATIENCE)) as store:
            await store.create("a", state="done")
            await store._packer.idle()
            set_timeout(store, 1)
            server.objects.quirks.etag_forms = frozenset()
            for call in (store.expire("a", 60), store.delete("a")):
                seen = len(server.requests)
                with pytest.raises(StoreUnavailable):
                    await asyncio.wait_for(call, 30)
                assert len(server.requests) - seen < 600
            await asyncio.wait_for(store.aclose(), 10)


async def test_the_loser_of_a_race_for_a_head_that_saw_an_error_knows_that_it_lost() -> None:
    """Ceph answers 500 to some losers; the second try is refused, which says nothing about
    the first. The head that won does: it names the head that it replaced."""
    with scripted_s3(deletes_under_condition=False) as server:
        url = server.store_url("p")
        async with S3StreamStore(url) as store, S3StreamStore(url) as other:
            await store.create("a", state="done")
            await store._packer.idle()
            await store.info("a")
            await other.info("a")
            await store.delete("a")
            server.spoil(get_of("streams/"), lambda exchange: _as_before(server, exchange))
            server.spoil(put_of("streams/"), fail_with(500, "InternalError"))
            with pytest.raises(StreamNotFound):
                await other.delete("a")


def _as_before(server: ScriptedS3, exchange: Any) -> None:
    """Says that the head has not changed: the race is lost after this look."""
    from tests.services.s3_objects import Response

    exchange.answer(Response(304, {"ETag": exchange.request.headers["if-none-match"]}))
