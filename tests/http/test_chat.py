"""The chat handler in one process, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from streamstores import InvalidRequest, MemoryStreamStore, StreamStore
from streamstores.http import Event, StreamRequest, create_stream_handler
from tests.http.conftest import Chat, Serve
from tests.http.serving import Received, Script, names, serving, text_of


async def until_tail(store: StreamStore, stream_id: str, tail: int) -> None:
    info = await store.info(stream_id)
    while info.tail < tail:
        info = await store.wait(stream_id, version=info.version, timeout=30)


# --- starting and following


async def test_an_answer_is_sent_as_events(serve: Serve) -> None:
    script = Script().say("Hé", Event("usage", '{"n":\n1}'), "\nllo", None)
    chat = await serve(script.model)
    async with chat.start(id="s") as events:
        assert await events.rest() == [
            Received("stream-id", None, "s"),
            Received("message", "3", "Hé"),
            Received("usage", "19", '{"n":\n1}'),
            Received("message", "23", "\nllo"),
            Received("done", None, ""),
        ]
        headers = events.response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert (headers["x-stream-id"], headers["x-stream-ping"]) == ("s", "15")


async def test_the_model_is_asked_what_the_client_sent(serve: Serve) -> None:
    script = Script()
    chat = await serve({"other": Script().model, "this": script.model})
    messages = [{"role": "user", "content": ["x", 1]}]
    script.say(None)
    fields = {"system": "be", "model": "this", "sessionId": "t", "messages": messages}
    body = json.dumps({"prompt": "hi \ud83d", "id": "s", **fields})
    await chat.request("POST", "/stream", content=body)
    [request] = script.requests
    assert request == StreamRequest("hi \ud83d", "be", "this", "t", tuple(messages), "s")
    assert request.headers["host"] in chat.url


async def test_null_is_as_good_as_missing(serve: Serve) -> None:
    script = Script().say(None)
    chat = await serve({"first": script.model, "second": Script().model})
    missing = dict.fromkeys(["system", "model", "sessionId", "messages", "id"])
    response = await chat.post("/stream", prompt="hi", **missing)
    [request] = script.requests
    assert request == StreamRequest("hi", model="first", id=response.headers["x-stream-id"])
    assert len(request.id) == 24


async def test_ids_may_be_the_applications(serve: Serve) -> None:
    chat = await serve(Script().say(None).model, new_id=lambda request: f"u/{request.prompt}")
    response = await chat.post("/stream", prompt="7")
    assert response.headers["x-stream-id"] == "u/7"


@pytest.mark.parametrize("stream_id", ["../x", "a b", "ü", "🎈", "%2F", '"{a}*', "a" * 255])
async def test_any_stream_id_works_everywhere(serve: Serve, stream_id: str) -> None:
    chat = await serve(Script().say("x", None).model)
    response = await chat.post("/stream", prompt="hi", id=stream_id)
    assert unquote(response.headers["x-stream-id"]) == stream_id
    assert response.text.startswith(f"event: stream-id\ndata: {stream_id}\n\n")
    status = await chat.get("/stream/status", id=stream_id)
    assert (status.json()["id"], status.json()["tail"]) == (stream_id, 1)
    assert (await chat.post("/stream/stop", id=stream_id)).json()["state"] == "done"
    async with chat.resume(stream_id, 1) as events:
        assert names(await events.rest()) == ["stream-id", "done"]


async def test_a_repeated_post_attaches_and_starts_nothing(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model)
    async with chat.start(id="s") as first, chat.start(id="s") as second:
        script.say("b", None)
        assert text_of(await first.rest()) == text_of(await second.rest()) == "ab"
    async with chat.start(id="s") as third:
        assert text_of(await third.rest()) == "ab"
    assert len(script.requests) == 1


async def test_racing_posts_with_one_id_make_one_generation(serve: Serve) -> None:
    script = Script().say("a", "b", None)
    chats = [await serve(script.model), await serve(script.model)]
    responses = await asyncio.gather(
        *(chats[number % 2].post("/stream", prompt="hi", id="s") for number in range(20))
    )
    assert len(script.requests) == 1
    assert {response.status_code for response in responses} == {200}
    assert all(response.text.count("data: ") == 4 for response in responses)


async def test_every_offset_continues_without_loss_or_repetition(serve: Serve) -> None:
    chat = await serve(Script().say("ab", Event("e", "x"), "cü", "d\n", None).model)
    async with chat.start(id="s") as events:
        whole = (await events.rest())[1:]
    for number, event in enumerate(whole[:-1]):
        async with chat.follow("s", int(event.id or 0)) as events:
            assert (await events.rest())[1:] == whole[number + 1 :]
    async with chat.follow("s", 1) as events:
        assert (await events.rest())[1:] == [Received("message", "2", "b"), *whole[1:]]


async def test_last_event_id_counts_where_it_is_a_number(serve: Serve) -> None:
    chat = await serve(Script().say("ab", "c", None).model)
    await chat.post("/stream", prompt="hi", id="s")

    async def text_after(header: str, **params: str) -> str:
        options = {"params": {"id": "s", **params}, "headers": {"last-event-id": header}}
        async with chat.open("GET", "/stream/resume", **options) as events:
            return text_of(await events.rest())

    assert await text_after("2") == "c"
    assert await text_after("b0a8-uuid") == "abc"
    assert await text_after("3", after="2") == "c"


async def test_a_client_that_leaves_does_not_stop_the_model(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model)
    async with chat.start(id="s") as events:
        await events.next()
    script.say("b", None)
    async with chat.follow("s") as events:
        assert text_of(await events.rest()) == "ab"


@pytest.mark.parametrize("reader", ["the only one", "one of two"])
async def test_the_last_clients_leaving_may_stop_the_model(
    serve: Serve, chat_store: StreamStore, reader: str
) -> None:
    script = Script().say("a")
    chat = await serve(script.model, cancel_on_disconnect=True)
    async with chat.start(id="s") as events:
        await events.next()
        if reader == "one of two":
            async with chat.follow("s") as other:
                await other.next()
            script.say("b")
            await until_tail(chat_store, "s", 2)
            assert (await chat_store.info("s")).state == "streaming"
    info = await chat_store.info("s")
    while info.state == "streaming":
        info = await chat_store.wait("s", version=info.version, timeout=30)
    assert info.state == "stopped"


async def test_pings_fill_silence(serve: Serve) -> None:
    script = Script()
    chat = await serve(script.model, ping_interval=0.01)
    async with chat.start() as events:
        assert events.response.headers["x-stream-ping"] == "0.01"
        await anext(events)
        for _ in range(3):
            assert await anext(events) == Received("ping", None, "")
        script.say("a", None)
        assert names(await events.rest()) == ["message", "done"]


AS_LINES = ("message", "a\nb\n")
AS_JSON = ("text", '"a\\r\\nb\\r"')


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, AS_LINES),
        ("text/event-stream", AS_LINES),
        ("text/event-stream; text=json", AS_JSON),
        ("a/b, Text/Event-Stream;TEXT=json;q=1", AS_JSON),
    ],
)
async def test_a_carriage_return_arrives_where_the_client_asks_for_it(
    serve: Serve, accept: str | None, expected: tuple[str, str]
) -> None:
    chat = await serve(Script().say("a\r\nb\r", "plain", None).model)
    headers = {} if accept is None else {"accept": accept}
    body = {"prompt": "hi"}
    async with chat.open("POST", "/stream", json=body, headers=headers) as events:
        rest = (await events.rest())[1:-1]
    assert [(event.name, event.data) for event in rest] == [expected, ("message", "plain")]


# --- stop, status


async def test_stop_answers_the_status_and_ends_followers_as_stopped(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve({"m": script.model})
    async with chat.start(id="s") as events:
        assert [(await events.next()).name, (await events.next()).data] == ["stream-id", "a"]
        status = (await chat.post("/stream/stop", id="s")).json()
        assert names(await events.rest()) == ["stopped", "done"]
    assert (status["state"], status["tail"], status["error"]) == ("stopped", 1, None)
    assert (status["id"], status["model"]) == ("s", "m")
    assert status["createdAt"] < status["expiresAt"]
    assert (await chat.get("/stream/status", id="s")).json()["state"] == "stopped"


@pytest.mark.parametrize("how", ["GET", "POST"])
async def test_a_resume_continues_and_a_follow_does_not(serve: Serve, how: str) -> None:
    script = Script().say("a")
    chat = await serve(script.model)
    async with chat.start(id="s") as events:
        await events.next(), await events.next()
        await chat.post("/stream/stop", id="s")
    async with chat.follow("s") as events:
        assert names(await events.rest()) == ["stream-id", "message", "stopped", "done"]
    async with chat.start(id="s") as events:  # attaching does not continue either
        assert names(await events.rest()) == ["stream-id", "message", "stopped", "done"]
    script.say("b", None)
    where = {"id": "s", "after": 1}
    options: dict[str, Any] = {"params": where} if how == "GET" else {"json": where}
    async with chat.open(how, "/stream/resume", **options) as events:
        assert [event.data for event in await events.rest()] == ["s", "b", ""]
    assert len(script.requests) == 1


# --- models


async def test_a_model_that_fails_ends_in_an_error(serve: Serve, caplog: Any) -> None:
    chat = await serve(Script().say("a", KeyError("secret")).model)
    response = await chat.post("/stream", prompt="hi", id="s")
    ending = "data: a\n\nevent: error\ndata: The model failed.\n\nevent: done\ndata: \n\n"
    assert response.text.endswith(ending)
    assert (await chat.get("/stream/status", id="s")).json()["error"] == "The model failed."
    assert "secret" in caplog.text


async def test_what_clients_are_told_of_a_failure_is_the_applications(serve: Serve) -> None:
    model = Script().say(KeyError("k")).model
    chat = await serve(model, describe_error=lambda exc: f"{exc!r}\n.")
    async with chat.start() as events:
        assert (await events.rest())[1] == Received("error", None, "KeyError('k')\n.")


@pytest.mark.parametrize("wrong", [b"bytes", 7, object(), ("usage", "x")])
async def test_what_is_no_text_ends_the_stream_in_an_error(serve: Serve, wrong: Any) -> None:
    script = Script().say("a", wrong, "b")
    chat = await serve(script.model)
    async with chat.start() as events:
        assert names(await events.rest()) == ["stream-id", "message", "error", "done"]
    await script.is_closed.wait()


async def test_odd_text_arrives(serve: Serve) -> None:
    odd = ["", "\0", "\u2028", "\ud800", " lead", ":", "data: no\n\nevent: x"]
    pieces = [*odd, "x" * 2_500_000]
    chat = await serve(Script().say(*pieces, None).model)
    async with chat.start() as events:
        text = text_of(await events.rest())
    assert text == "".join(pieces).replace("\ud800", "\ufffd")


async def asynchronous(request: StreamRequest) -> AsyncIterator[str]:
    yield "a"
    yield "b"


def plain(request: StreamRequest) -> Iterator[str]:
    yield "a"
    yield "b"


async def returning_an_iterator(request: StreamRequest) -> AsyncIterator[str]:
    return asynchronous(request)


async def returning_text(request: StreamRequest) -> str:
    return "ab"


def returning_a_list(request: StreamRequest) -> list[str]:
    return ["a", "b"]


class Answering:
    async def __call__(self, request: StreamRequest) -> AsyncIterator[str]:
        return asynchronous(request)


@pytest.mark.parametrize(
    "model",
    [
        asynchronous,
        plain,
        returning_an_iterator,
        returning_text,
        returning_a_list,
        Answering(),
        partial(plain),
    ],
)
async def test_models_come_in_many_shapes(serve: Serve, model: Any) -> None:
    chat = await serve(model)
    async with chat.start() as events:
        rest = await events.rest()
    assert (text_of(rest), rest[-1].name) == ("ab", "done")


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("wrong", [None, 7, {"text": "hi"}, b"hi", bytearray(b"hi")], ids=str)
async def test_a_model_that_returns_no_iterator_fails(
    serve: Serve, wrong: Any, resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chat = await serve(lambda request: wrong, resumable=resumable)
    async with chat.start() as events:
        assert names(await events.rest())[-2:] == ["error", "done"]
        assert "message" not in names(await events.rest())
    assert f"not {type(wrong).__name__}" in caplog.text


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_model_that_yields_a_dict_is_told_what_to_yield(
    serve: Serve, resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chat = await serve(Script().say("a", {"usage": 7}).model, resumable=resumable)
    async with chat.start() as events:
        assert names(await events.rest())[-2:] == ["error", "done"]
    assert "a model yields str and Event, not dict" in caplog.text
    assert "Event(name, json.dumps(" in caplog.text


async def test_a_plain_model_runs_in_one_thread_that_is_not_the_loops(serve: Serve) -> None:
    threads: list[int] = []
    closed = threading.Event()

    def model(request: StreamRequest) -> Iterator[str]:
        try:
            while True:
                threads.append(threading.get_ident())
                yield "a"
        finally:
            threads.append(threading.get_ident())
            closed.set()

    chat = await serve(model, pause_for=0)
    async with chat.start(id="s") as events:
        for _ in range(3):
            await events.next()
        await chat.post("/stream/stop", id="s")
    await asyncio.get_running_loop().run_in_executor(None, closed.wait)
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("exc", [ValueError("x"), StopIteration(), SystemExit(3)])
async def test_a_plain_model_that_raises_ends_in_an_error(serve: Serve, exc: Any) -> None:
    class Raising:
        def __iter__(self) -> Raising:
            return self

        def __next__(self) -> str:
            raise exc

    chat = await serve(lambda request: Raising())
    async with chat.start() as events:
        ending = "done" if isinstance(exc, StopIteration) else "error"
        assert names(await events.rest())[1] == ending


@pytest.mark.parametrize("models", [{}, 7, {"a": 7}, {1: plain}, None])
def test_models_that_cannot_be_are_refused(models: Any) -> None:
    with pytest.raises(InvalidRequest):
        create_stream_handler(models)


@pytest.mark.parametrize(
    "setting",
    [{"ping_interval": 0}, {"heartbeat": 0}, {"pause_for": -1}, {"max_runs": 0}],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        create_stream_handler(plain, **setting)


# --- where it runs


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


async def test_a_mount_that_was_taken_off_the_path_works_too() -> None:
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


async def test_without_a_store_it_has_one_of_its_own() -> None:
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


# --- resumable=False


async def test_an_answer_that_is_not_kept_has_no_ids(serve: Serve) -> None:
    script = Script().say("a", Event("usage", "{}"), "b\r", None)
    chat = await serve(script.model, resumable=False)
    async with chat.start() as events:
        assert await events.rest() == [
            Received("message", None, "a"),
            Received("usage", None, "{}"),
            Received("message", None, "b\n"),
            Received("done", None, ""),
        ]
        assert "x-stream-id" not in events.response.headers
    assert script.requests[0].id == ""
    for path in ("resume", "status"):
        assert (await chat.get(f"/stream/{path}", id="s")).json()["code"] == "not_found"


async def test_an_answer_that_is_not_kept_ends_with_its_client(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model, resumable=False)
    async with chat.start() as events:
        await events.next()
    await script.is_closed.wait()


async def test_an_answer_that_is_not_kept_can_fail(serve: Serve) -> None:
    chat = await serve(Script().say("a", KeyError()).model, resumable=False, ping_interval=9)
    async with chat.start() as events:
        assert (await events.rest())[1:] == [
            Received("error", None, "The model failed."),
            Received("done", None, ""),
        ]


async def test_answers_that_are_not_kept_are_bounded_too(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model, resumable=False, max_runs=1)
    async with chat.start() as events:
        await events.next()
        response = await chat.post("/stream", prompt="hi")
        assert (response.status_code, response.json()["code"]) == (429, "too_many_streams")
        script.say(None)
        await events.rest()
    script.say(None)
    async with chat.start() as events:
        assert names(await events.rest()) == ["done"]
