"""What the monitor asks of the store."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streamstores import InvalidRequest, MemoryStreamStore
from streamstores.http.monitor import create_monitor, only_loopback
from tests.monitor.client import LISTINGS, Watched, ids, snapshot


async def test_a_store_that_cannot_list_gives_501(open_monitor: Any) -> None:
    async with MemoryStreamStore() as store:
        store.capabilities = store.capabilities - {"list"}
        monitor = await open_monitor(store)
        for path in LISTINGS:
            answer = await monitor.get(path)
            assert (answer.status_code, answer.json()["code"]) == (501, "no_listing")
        assert (await monitor.get("/")).status_code == 200


async def test_all_clients_share_one_listing(store: Watched, open_monitor: Any) -> None:
    await store.create("s")
    monitor = await open_monitor(store, interval=3600)
    found = await asyncio.gather(*(monitor.streams() for _ in range(5)))  # none is known yet
    assert [ids(each) for each in found] == [["s"]] * 5
    async with AsyncExitStack() as stack:
        for limit in 1, 2, 3:
            events = await stack.enter_async_context(monitor.look(limit=limit))
            assert ids(await snapshot(events)) == ["s"]
    assert store.listings == 1


async def test_clients_with_different_prefixes_take_turns(
    store: Watched, open_monitor: Any
) -> None:
    prefixes = ["a", "b", "c"]
    for prefix in prefixes:
        await store.create(prefix)
    monitor = await open_monitor(store)

    async def look(prefix: str) -> None:
        async with monitor.look(prefix=prefix) as events:
            for _ in range(5):
                assert ids(await snapshot(events)) == [prefix]

    await asyncio.gather(*map(look, prefixes))
    assert store.at_once == 1


async def test_without_clients_the_store_is_not_asked(
    store: Watched, open_monitor: Any
) -> None:
    monitor = await open_monitor(store)
    async with monitor.look() as events:
        await snapshot(events)
        await snapshot(events)
    before = 0
    while before != store.listings:  # until the server has heard that the client left
        before = store.listings
        await asyncio.sleep(0.2)


async def test_a_store_that_is_unavailable_is_a_problem_until_it_is_back(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s")
    monitor = await open_monitor(store)
    store.fails = True
    answer = await monitor.get("/streams")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    async with monitor.look() as events:
        for _ in range(2):
            event = await events.next()
            assert (event.name, json.loads(event.data)["code"]) == (
                "problem",
                "store_unavailable",
            )
        store.fails = False
        while (event := await events.next()).name == "problem":
            pass
        assert ids(json.loads(event.data)) == ["s"]


async def test_a_fault_of_the_store_is_logged_and_answered_500(
    store: Watched, open_monitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = await open_monitor(store)
    await store.aclose()
    answer = await monitor.get("/streams")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "cannot be listed" in caplog.text


@pytest.mark.parametrize("settings", [{"interval": 0}, {"max_streams": 0}])
def test_settings_out_of_range_are_refused(store: Watched, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        create_monitor(store, authorize=only_loopback, **settings)
