"""The application mounted in another application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.routing import Mount

from streamstores import MemoryStreamStore
from streamstores.http import create_durable_streams_app
from tests.durable.client import TEXT, Client, refusal
from tests.http.serving import serving


def mounted_in_starlette(app: Any, lifespan: Any) -> Any:
    async def name(request: Request, call_next: Any) -> Any:
        request.state.user = request.headers.get("x-user")
        return await call_next(request)

    routes = [Mount("/outer", routes=[Mount("/streams", app)])]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=name)],
    )


def mounted_in_fastapi(app: Any, lifespan: Any) -> Any:
    from fastapi import FastAPI

    inner, outer = FastAPI(), FastAPI(lifespan=lifespan)
    inner.mount("/streams", app)
    outer.mount("/outer", inner)
    return outer


@pytest.mark.parametrize("mounted", [mounted_in_starlette, mounted_in_fastapi])
async def test_a_mounted_application_names_streams_below_its_mount(mounted: Any) -> None:
    async with MemoryStreamStore() as store:
        app = create_durable_streams_app(store)

        @asynccontextmanager
        async def lifespan(_: Any) -> Any:
            async with app:
                yield

        async with serving(mounted(app, lifespan)) as url, httpx.AsyncClient() as http:
            client = Client(f"{url}/outer/streams", http)
            created = await client.put("a/b", b"x")
            assert created.headers["location"] == f"{url}/outer/streams/a/b"
            assert (await store.info("a/b")).tail == 1
            source = {"Stream-Forked-From": "/outer/streams/a/b"}
            assert (await client.ask("PUT", "fork", headers=source)).status_code == 201
            assert await client.text("fork") == "x"
            other = {"Stream-Forked-From": "/a/b"}
            response = await client.ask("PUT", "other", headers=other)
            assert refusal(response) == (404, "source_not_found")
            async with client.live("a/b") as events:
                assert (await anext(events)).data == "x"


async def test_authorize_sees_the_state_set_by_the_outer_applications_middleware() -> None:
    async with MemoryStreamStore() as store:
        app = create_durable_streams_app(
            store, authorize=lambda request, *_: request.state.user == "ann"
        )

        @asynccontextmanager
        async def lifespan(_: Any) -> Any:
            async with app:
                yield

        outer = mounted_in_starlette(app, lifespan)
        async with serving(outer) as url, httpx.AsyncClient() as http:
            client = Client(f"{url}/outer/streams", http)
            assert (await client.put("s", **{"X-User": "ann"})).status_code == 201
            assert refusal(await client.put("t", **TEXT)) == (403, "forbidden")
