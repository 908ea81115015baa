"""Where the chat handler runs: alone, mounted, with and without a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from streamstores import InvalidRequest, MemoryStreamStore
from streamstores.http import StreamRequest, create_stream_handler
from tests.http.conftest import Chat, Serve
from tests.http.serving import Script, serving, text_of


def plain(request: StreamRequest) -> Iterator[str]:
    yield "a"
    yield "b"


@pytest.mark.parametrize("middleware", [False, True])
async def test_it_can_be_mounted(middleware: bool) -> None:
    script = Script().say("a")
    async with create_stream_handler(script.model) as handler:
        app = Starlette(routes=[Mount("/ai", handler)])
        if middleware:
            app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, go: go(request))
        async with serving(app) as url, httpx.AsyncClient() as client:
            chat = Chat(handler, f"{url}/ai", client)
            async with chat.start(id="s") as events:
                await events.next(), await events.next()
                script.say("b", None)
                async with chat.follow("s", 1) as other:
                    assert text_of(await other.rest()) == "b"
            assert (await chat.get("/stream.js")).status_code == 200
            assert (await chat.get("/other")).json()["code"] == "not_found"


async def test_it_can_be_mounted_in_fastapi() -> None:
    fastapi = pytest.importorskip("fastapi")
    async with create_stream_handler(plain) as handler:
        app = fastapi.FastAPI()
        app.mount("/ai", handler)
        async with serving(app) as url, httpx.AsyncClient() as client:
            async with Chat(handler, f"{url}/ai", client).start() as events:
                assert text_of(await events.rest()) == "ab"


async def test_it_works_if_the_framework_removed_the_mount_from_the_path() -> None:
    """Some frameworks give `path` without the mount's."""
    async with create_stream_handler(plain) as handler:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope = {**scope, "root_path": "/ai"}
            await handler(scope, receive, send)

        async with serving(app) as url, httpx.AsyncClient() as client:
            async with Chat(handler, url, client).start() as events:
                assert text_of(await events.rest()) == "ab"


async def test_the_javascript_client_is_served(serve: Serve) -> None:
    response = await (await serve(plain)).get("/stream.js")
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "export" in response.text


async def test_without_a_store_it_makes_one_itself() -> None:
    async with create_stream_handler(plain) as handler, serving(handler) as url:
        async with httpx.AsyncClient() as client:
            chat = Chat(handler, url, client)
            await chat.post("/stream", prompt="hi", id="s")
            async with chat.follow("s") as events:
                assert text_of(await events.rest()) == "ab"


async def test_the_servers_end_closes_the_store_and_the_handlers_end_does_not() -> None:
    store = MemoryStreamStore()
    async with create_stream_handler(plain, store):
        pass
    await store.create("s")
    async with serving(create_stream_handler(plain, store)):
        pass
    with pytest.raises(InvalidRequest, match="closed"):
        await store.info("s")


async def test_other_protocols_are_turned_away() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with create_stream_handler(plain) as handler:
        await handler({"type": "websocket", "path": "/stream"}, None, send)  # type: ignore[arg-type]  # nothing is received
    assert sent == ["websocket.close"]
