"""The chat handler in one process, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote

import pytest

from streamstores import StreamStore
from streamstores.http import Event, StreamRequest
from tests.http.conftest import Serve
from tests.http.serving import Received, Script, names, text_of


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


async def test_the_model_gets_the_request_of_the_client(serve: Serve) -> None:
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


async def test_null_equals_a_missing_field(serve: Serve) -> None:
    script = Script().say(None)
    chat = await serve({"first": script.model, "second": Script().model})
    missing = dict.fromkeys(["system", "model", "sessionId", "messages", "id"])
    response = await chat.post("/stream", prompt="hi", **missing)
    [request] = script.requests
    assert request == StreamRequest("hi", model="first", id=response.headers["x-stream-id"])
    assert len(request.id) == 24


async def test_the_application_may_choose_ids(serve: Serve) -> None:
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


async def test_last_event_id_is_used_if_it_is_a_number(serve: Serve) -> None:
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
async def test_a_carriage_return_arrives_if_the_client_asks_for_it(
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
