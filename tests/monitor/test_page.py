"""The monitor's page, its paths, and its end."""

from __future__ import annotations

import signal
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamstores.http.monitor import create_monitor, only_loopback
from tests.http.serving import serving
from tests.http.test_frameworks import Server
from tests.monitor.client import Monitor, Watched, ids, snapshot


async def test_the_page_may_load_nothing_from_other_origins(
    store: Watched, open_monitor: Any
) -> None:
    answer = await (await open_monitor(store)).get("/")
    page = resources.files("streamstores.http.monitor") / "monitor.html"
    assert answer.text == page.read_text()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


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
