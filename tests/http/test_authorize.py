"""Only the value `True` allows a request, on every handler."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from streamstores import MemoryStreamStore, StreamStore
from streamstores.http import (
    StreamHandler,
    create_durable_streams_app,
    create_stream_handler,
)
from streamstores.http.monitor import create_monitor
from tests.http.serving import Script, serving


def chat(store: StreamStore, authorize: Any) -> StreamHandler:
    return create_stream_handler(Script().say(None).model, store, authorize=authorize)


def direct(store: StreamStore, authorize: Any) -> StreamHandler:
    model = Script().say(None).model
    return create_stream_handler(model, resumable=False, authorize=authorize)


def durable(store: StreamStore, authorize: Any) -> StreamHandler:
    return create_durable_streams_app(store, authorize=authorize)


def monitor(store: StreamStore, authorize: Any) -> StreamHandler:
    return create_monitor(store, authorize=authorize)


START = ("POST", "/stream", {"prompt": "hi"})
REQUESTS = [
    (chat, START),
    (chat, ("GET", "/stream/status?id=s", None)),
    (direct, START),
    (durable, ("GET", "/s", None)),
    (durable, ("DELETE", "/s", None)),
    (monitor, ("GET", "/streams", None)),
]


async def answer_to(
    create: Any, request: tuple[str, str, Any], store: StreamStore, verdict: Any
) -> httpx.Response:
    async def asynchronous(*arguments: Any) -> Any:
        return verdict

    async with create(store, asynchronous) as handler, serving(handler, lifespan="off") as url:
        async with httpx.AsyncClient() as client:
            method, path, fields = request
            return await client.request(method, url + path, json=fields)


@pytest.mark.parametrize(("create", "request_of"), REQUESTS)
@pytest.mark.parametrize(
    "verdict",
    [False, None, 0, 1, "no", "yes", JSONResponse({}, 403), httpx.Response(403), object()],
    ids=["False", "None", "0", "1", "no", "yes", "a response", "another response", "object"],
)
async def test_authorize_refuses_on_anything_but_true(
    create: Any, request_of: Any, verdict: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryStreamStore() as store:
        await store.create("s", b"secret")
        with caplog.at_level(logging.ERROR, "streamstores.http"):
            answer = await answer_to(create, request_of, store, verdict)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert (await store.info("s")).tail == 6
    warned = [each for each in caplog.messages if "authorize" in each]
    assert len(warned) == (verdict is not False), "a value of the wrong type is logged"


@pytest.mark.parametrize(("create", "request_of"), REQUESTS)
async def test_authorize_allows_on_true(
    create: Any, request_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryStreamStore() as store:
        await store.create("s", b"text")
        answer = await answer_to(create, request_of, store, True)
        assert answer.status_code in (200, 204)
    assert not [each for each in caplog.messages if "authorize" in each]


@pytest.mark.parametrize(("create", "request_of"), REQUESTS)
async def test_a_function_that_is_not_async_is_judged_the_same(
    create: Any, request_of: Any
) -> None:
    async with MemoryStreamStore() as store:
        await store.create("s")
        for verdict, allowed in ((True, True), ("no", False)):
            app = create(store, lambda *arguments, verdict=verdict: verdict)
            async with app as handler, serving(handler, lifespan="off") as url:
                async with httpx.AsyncClient() as client:
                    method, path, fields = request_of
                    answer = await client.request(method, url + path, json=fields)
            assert (answer.status_code != 403) is allowed
            if not await exists(store, "s"):
                await store.create("s")


async def exists(store: StreamStore, stream_id: str) -> bool:
    return stream_id in [info.id async for info in store.list()]
