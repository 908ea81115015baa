"""What the monitor shows of the streams in a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streamstores.http import StreamRequest, continues, create_stream_handler
from tests.http.conftest import Chat
from tests.http.serving import Script, serving
from tests.monitor.client import LISTINGS, Watched, ids, snapshot, until


async def test_a_stream_is_shown_without_attributes_that_may_be_secret(
    store: Watched, open_monitor: Any
) -> None:
    attributes = {"model": "smart", "owner": "o.1", "request": '{"prompt": "secret"}', "k": "v"}
    await store.create("a/b", b"12345", ttl=60, attributes=attributes)
    info = await store.mark_done("a/b", "error", error="The model failed.")
    answer = await (await open_monitor(store)).get("/streams")
    assert "secret" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    [shown] = answer.json()["streams"]
    assert info.expires_at is not None
    assert shown == {
        "id": "a/b",
        "state": "error",
        "tail": 5,
        "rate": None,
        "version": info.version,
        "error": "The model failed.",
        "attributes": {"model": "smart"},
        "createdAt": info.created_at.isoformat(),
        "expiresAt": info.expires_at.isoformat(),
        "followers": None,
        "producedHere": None,
        "silentSeconds": shown["silentSeconds"],
        "stale": False,
    }


async def test_a_stream_that_holds_a_request_is_not_shown(
    store: Watched, open_monitor: Any, client: httpx.AsyncClient
) -> None:
    @continues
    async def model(request: StreamRequest) -> AsyncIterator[str]:
        yield "answer"

    async with create_stream_handler(model, store) as handler, serving(handler) as url:
        async with Chat(handler, url, client).start("long " * 5000, id="mine") as events:
            await events.rest()
        assert len([info async for info in store.list()]) == 2
        assert ids(await (await open_monitor(store)).streams()) == ["mine"]


async def test_streaming_streams_come_first_and_then_the_newest(
    store: Watched, open_monitor: Any
) -> None:
    for stream_id, state in [("a", "streaming"), ("b", "done"), ("c", "stopped"), ("d", "")]:
        await store.create(stream_id, state=state or "streaming")
    found = await (await open_monitor(store)).streams()
    assert ids(found) == ["d", "a", "c", "b"]
    assert found["states"] == {"streaming": 2, "stopped": 1, "done": 1}


async def test_sums_are_over_all_streams_and_limit_bounds_those_shown(
    store: Watched, open_monitor: Any
) -> None:
    for n in range(5):
        await store.create(f"{'odd' if n % 2 else 'even'}/{n}")
    monitor = await open_monitor(store)
    found = await monitor.streams(limit=2)
    assert ids(found) == ["even/4", "odd/3"]
    assert (found["listed"], found["complete"], found["states"]) == (5, True, {"streaming": 5})
    assert ids(await monitor.streams(prefix="odd/")) == ["odd/3", "odd/1"]


async def test_a_listing_is_cut_at_max_streams(store: Watched, open_monitor: Any) -> None:
    for n in range(4):
        await store.create(f"s{n}")
    found = await (await open_monitor(store, max_streams=3)).streams()
    assert (len(found["streams"]), found["listed"], found["complete"]) == (3, 3, False)
    found = await (await open_monitor(store, max_streams=4)).streams()
    assert (found["listed"], found["complete"]) == (4, True)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1" * 30, "²"])
async def test_a_limit_out_of_bounds_is_refused(
    store: Watched, open_monitor: Any, limit: str
) -> None:
    monitor = await open_monitor(store)
    for path in LISTINGS:
        answer = await monitor.get(path, params={"limit": limit})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_limit")
    assert store.listings == 0


async def test_the_rate_is_that_of_the_stream_and_not_of_its_namesake(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s", b"x" * 1000)
    monitor = await open_monitor(store)
    async with monitor.look() as events:
        first = await snapshot(events)
        assert (first["streams"][0]["rate"], first["rate"]) == (None, 0)
        await store.append("s", b"y" * 1000)
        grown = await until(events, lambda found: found["streams"][0]["tail"] == 2000)
        assert grown["streams"][0]["rate"] > 0
        assert grown["rate"] == grown["streams"][0]["rate"]
        await store.delete("s")
        await store.create("s", b"again")
        again = await until(events, lambda found: found["streams"][0]["tail"] == 5)
        assert again["streams"][0]["rate"] is None
        still = await snapshot(events)
        assert still["streams"][0]["rate"] == 0


async def test_a_listing_of_long_ago_gives_no_rate(
    store: Watched, open_monitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamstores.http.monitor.listings._RATE_SECONDS", 0.0)
    await store.create("s", b"x")
    often = await open_monitor(store, interval=0.001)
    for _ in range(2):
        assert (await often.streams())["streams"][0]["rate"] is None
        await asyncio.sleep(0.05)
    async with (await open_monitor(store, interval=0.2)).look() as events:
        await until(events, lambda found: found["streams"][0]["rate"] is not None)


async def test_with_the_handler_it_shows_followers_and_producers_of_this_process(
    store: Watched, open_monitor: Any, client: httpx.AsyncClient
) -> None:
    script = Script().say("one ")
    await store.create("elsewhere")
    async with create_stream_handler(script.model, store) as handler, serving(handler) as url:
        chat = Chat(handler, url, client)
        monitor = await open_monitor(store, handler=handler)
        async with chat.start(id="here") as started, chat.follow("here") as followed:
            await started.next()
            await followed.next()
            async with monitor.look() as events:
                found = await snapshot(events)
                shown = [(s["id"], s["followers"], s["producedHere"]) for s in found["streams"]]
                assert shown == [("here", 2, True), ("elsewhere", 0, False)]
                assert found["streams"][0]["attributes"] == {"model": "default"}
                script.say(None)
                await until(events, lambda found: not found["streams"][0]["producedHere"])
                await followed.rest()
                await started.rest()
                await until(events, lambda found: found["states"].get("done") == 1)
                await until(
                    events, lambda found: not sum(s["followers"] for s in found["streams"])
                )
