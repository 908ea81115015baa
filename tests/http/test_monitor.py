"""The monitor over real sockets: what it shows, to whom, and what it asks of the store."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from streamstores import InvalidRequest, MemoryStreamStore, StoreUnavailable, StreamStore
from streamstores.http import StreamRequest, continues, create_stream_handler
from streamstores.http.monitor import create_monitor, only_loopback
from tests.http.conftest import Chat
from tests.http.serving import Events, Script, serving
from tests.http.test_frameworks import Server

PATHS = ["/", "/streams", "/events"]


class Monitor:
    """A served monitor and a client of it."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self._client.get(self.url + path, **options)

    async def streams(self, **params: Any) -> dict[str, Any]:
        answer = await self.get("/streams", params=params)
        assert answer.status_code == 200, answer.text
        snapshot: dict[str, Any] = answer.json()
        return snapshot

    @asynccontextmanager
    async def look(self, **params: Any) -> AsyncIterator[Events]:
        url = self.url + "/events"
        async with self._client.stream("GET", url, params=params) as response:
            assert response.status_code == 200
            yield Events(response)


async def snapshot(events: Events) -> dict[str, Any]:
    event = await events.next()
    assert event.name == "snapshot", event
    found: dict[str, Any] = json.loads(event.data)
    return found


async def until(events: Events, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first snapshot that is so."""
    while not is_so(found := await snapshot(events)):
        pass
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [stream["id"] for stream in found["streams"]]


class Watched(MemoryStreamStore):
    """Counts its listings, and can fail."""

    listings = 0
    running = 0
    at_once = 0
    fails = False

    async def list(self, prefix: str = "") -> Any:
        self.listings += 1
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            await asyncio.sleep(0)
            if self.fails:
                raise StoreUnavailable("away")
            async for info in super().list(prefix):
                yield info
        finally:
            self.running -= 1


@pytest.fixture
async def store() -> AsyncIterator[Watched]:
    async with Watched() as store:
        yield store


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


@pytest.fixture
async def open_monitor(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def start(store: StreamStore, **options: Any) -> Monitor:
            options = {"authorize": only_loopback, "interval": 0.01, **options}
            monitor = create_monitor(store, **options)
            await stack.enter_async_context(monitor)
            app = Starlette(routes=[Mount("/monitor", monitor)])
            url = await stack.enter_async_context(serving(app))
            return Monitor(url + "/monitor", client)

        yield start


# What it shows


async def test_a_stream_is_shown_without_what_may_be_secret(
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


async def test_what_streams_comes_first_and_then_the_youngest(
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


async def test_a_listing_ends_where_there_are_too_many_streams(
    store: Watched, open_monitor: Any
) -> None:
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
    for path in PATHS[1:]:
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


async def test_what_was_long_ago_gives_no_rate_and_long_is_measured_by_the_interval(
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


async def test_with_the_handler_it_tells_who_follows_and_what_is_produced_here(
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


# Who may look


@pytest.mark.parametrize("path", PATHS)
async def test_what_authorize_does_not_allow_is_refused(
    store: Watched, open_monitor: Any, path: str
) -> None:
    async def by_header(request: Request) -> bool:
        return request.headers["x-key"] == "let me in"

    monitor = await open_monitor(store, authorize=by_header)
    for headers in {}, {"X-Key": "please"}:
        answer = await monitor.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert store.listings == 0
    async with httpx.AsyncClient() as client:
        headers = {"X-Key": "let me in"}
        async with client.stream("GET", monitor.url + path, headers=headers) as allowed:
            assert allowed.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "monitor.example"},
        {"Host": "127.0.0.1.example:80"},
        {"Host": "an_odd_name.example"},
        {"Host": "[nonsense"},
        {"Host": ""},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_a_request_that_may_come_from_elsewhere_is_not_from_loopback(
    store: Watched, open_monitor: Any, headers: dict[str, str]
) -> None:
    answer = await (await open_monitor(store)).get("/streams", headers=headers)
    assert (answer.status_code, store.listings) == (403, 0)


@pytest.mark.parametrize(
    ("client", "host", "version", "is_loopback"),
    [
        (("127.0.0.1", 1), "localhost:8000", "1.1", True),
        (("127.8.0.1", 1), "127.0.0.1", "2", True),
        (("::1", 1), "[::1]:8000", "1.1", True),
        (("192.0.2.7", 1), "localhost", "1.1", False),
        (("127.0.0.1", 1), "192.0.2.7", "1.1", False),
        (("127.0.0.1", 1), "localhost", "1.0", False),
        (("testclient", 1), "localhost", "1.1", False),
        (None, "localhost", "1.1", False),
    ],
)
def test_loopback_is_client_and_name_both(
    client: tuple[str, int] | None, host: str, version: str, is_loopback: bool
) -> None:
    scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 80), "path": "/"}
    scope["http_version"] = version
    headers = [(b"host", host.encode())]
    request = Request({**scope, "query_string": b"", "headers": headers, "client": client})
    assert only_loopback(request) is is_loopback


def test_who_may_look_has_no_default(store: Watched) -> None:
    with pytest.raises(TypeError, match="authorize"):
        create_monitor(store)  # type: ignore[call-arg]  # this is what is refused


# What it asks of the store


async def test_a_store_without_listing_is_told(open_monitor: Any) -> None:
    async with MemoryStreamStore() as store:
        store.capabilities = store.capabilities - {"list"}
        monitor = await open_monitor(store)
        for path in PATHS[1:]:
            answer = await monitor.get(path)
            assert (answer.status_code, answer.json()["code"]) == (501, "no_listing")
        assert (await monitor.get("/")).status_code == 200


async def test_one_listing_does_for_everybody_who_looks(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s")
    monitor = await open_monitor(store, interval=3600)
    found = await asyncio.gather(*(monitor.streams() for _ in range(5)))  # none is known yet
    assert [ids(each) for each in found] == [["s"]] * 5
    async with AsyncExitStack() as stack:
        for limit in 1, 2, 3:
            events = await stack.enter_async_context(monitor.look(limit=limit))
            assert ids(await snapshot(events)) == ["s"]
    assert store.listings == 1


async def test_those_who_look_at_different_prefixes_take_turns(
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


async def test_nothing_is_asked_when_nobody_looks(store: Watched, open_monitor: Any) -> None:
    monitor = await open_monitor(store)
    async with monitor.look() as events:
        await snapshot(events)
        await snapshot(events)
    before = 0
    while before != store.listings:  # until the server has heard that the client left
        before = store.listings
        await asyncio.sleep(0.2)


async def test_a_store_that_is_away_is_told_until_it_is_back(
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


async def test_a_fault_of_the_store_is_no_fault_of_the_monitor(
    store: Watched, open_monitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = await open_monitor(store)
    await store.aclose()
    answer = await monitor.get("/streams")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "cannot be listed" in caplog.text


@pytest.mark.parametrize("settings", [{"interval": 0}, {"max_streams": 0}])
def test_settings_that_cannot_be_are_refused(store: Watched, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        create_monitor(store, authorize=only_loopback, **settings)


# The page, and the end


async def test_the_page_comes_with_the_package_and_may_load_nothing_from_elsewhere(
    store: Watched, open_monitor: Any
) -> None:
    answer = await (await open_monitor(store)).get("/")
    page = resources.files("streamstores.http.monitor") / "monitor.html"
    assert answer.text == page.read_text()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/stream.js", "/monitor.html", "/index.html"])
async def test_the_monitor_serves_nothing_but_its_own_paths(
    store: Watched, open_monitor: Any, path: str
) -> None:
    answer = await (await open_monitor(store)).get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("is_stripped", [False, True], ids=["whole path", "without mount"])
@pytest.mark.parametrize("has_raw_path", [True, False])
async def test_a_path_without_its_slash_is_redirected(
    store: Watched, client: httpx.AsyncClient, is_stripped: bool, has_raw_path: bool
) -> None:
    """The page asks for what is below it, so it must be at a path with a slash."""
    async with create_monitor(store, authorize=only_loopback) as monitor:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope = {**scope, "root_path": "/for/monitor"}
            if is_stripped:
                scope["path"] = scope["path"].removeprefix("/for/monitor")
            if not has_raw_path:
                del scope["raw_path"]
            await monitor(scope, receive, send)

        async with serving(app, lifespan="off") as url:
            answer = await client.get(url + "/for/monitor?prefix=a%2Fb")
            assert answer.status_code == 307
            target = answer.next_request
            assert target is not None
            assert str(target.url) == url + "/for/monitor/?prefix=a%2Fb"
            page = await client.send(target)
            assert page.headers["content-type"].startswith("text/html")


async def test_a_path_without_its_slash_asks_authorize_too(
    store: Watched, client: httpx.AsyncClient
) -> None:
    async with create_monitor(store, authorize=lambda request: False) as monitor:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await monitor({**scope, "root_path": "/monitor"}, receive, send)

        async with serving(app, lifespan="off") as url:
            assert (await client.get(url + "/monitor")).status_code == 403


async def test_a_monitor_that_is_closed_ends_its_responses(
    store: Watched, client: httpx.AsyncClient
) -> None:
    await store.create("s")
    monitor = create_monitor(store, authorize=only_loopback, interval=0.01)
    async with serving(monitor) as url, Monitor(url, client).look() as events:
        shown = await snapshot(events)
        assert datetime.fromisoformat(shown["at"]).tzinfo is not None
        await monitor.aclose()
        assert {event.name for event in await events.rest()} <= {"snapshot"}


PROGRAM = """
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import MemoryStreamStore
from streamstores.http import create_stream_handler
from streamstores.http.monitor import create_monitor, only_loopback

store = MemoryStreamStore()
handler = create_stream_handler(lambda request: "answer", store)
monitor = create_monitor(store, authorize=only_loopback, handler=handler)


@asynccontextmanager
async def lifespan(app):
    async with store, handler, monitor:
        yield


app = Starlette(
    routes=[Mount("/ai", handler), Mount("/monitor", monitor)], lifespan=lifespan
)
"""


async def test_a_page_that_is_open_does_not_hold_up_the_end_of_the_server(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    (tmp_path / "main.py").write_text(PROGRAM)
    server = Server(tmp_path)
    await server.start()
    try:
        async with client.stream(
            "POST", server.url + "/ai/stream", json={"prompt": "x", "id": "s"}
        ) as answer:
            await answer.aread()
        async with Monitor(server.url + "/monitor", client).look() as events:
            assert ids(await snapshot(events)) == ["s"]
            server.process.send_signal(signal.SIGTERM)
            await events.rest()
        assert "Traceback" not in await server.has_ended()
    finally:
        await server.kill()
