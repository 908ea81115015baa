"""Refusals: each row of the table in docs/wire.md, and that nothing else happened."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore, OutcomeUnknown, StoreUnavailable, StreamStore
from streamstores.http import Event, create_stream_handler
from tests.http.conftest import Chat, Serve
from tests.http.serving import Script, names, serving
from tests.wrapping import Wrapping


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert isinstance(body["error"], str)
    assert body["error"]
    return response.status_code, body["code"]


async def is_empty(store: StreamStore) -> bool:
    return [info async for info in store.list()] == []


NO_OBJECTS = [b"", b"{", b"[]", b"7", b'"x"', b"null", b"\xff", b"NaN", b'{"a": NaN}']


@pytest.mark.parametrize("content", [*NO_OBJECTS, b"[" * 99_999])
@pytest.mark.parametrize("path", ["/stream", "/stream/resume", "/stream/stop"])
async def test_a_body_that_is_not_a_json_object_is_refused(
    serve: Serve, path: str, content: bytes
) -> None:
    chat = await serve(Script().model)
    response = await chat.request("POST", path, content=content)
    assert refusal(response) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "missing_prompt"),
        ({"prompt": None}, "missing_prompt"),
        ({"prompt": ""}, "missing_prompt"),
        ({"prompt": 7}, "invalid_prompt"),
        ({"prompt": ["x"]}, "invalid_prompt"),
        ({"prompt": "x", "system": 7}, "invalid_system"),
        ({"prompt": "x", "messages": "hi"}, "invalid_messages"),
        ({"prompt": "x", "messages": ["hi"]}, "invalid_messages"),
        ({"prompt": "x", "messages": {"role": "user"}}, "invalid_messages"),
        ({"prompt": "x", "sessionId": 7}, "invalid_session_id"),
        ({"prompt": "x", "model": "other"}, "unknown_model"),
        ({"prompt": "x", "model": 7}, "unknown_model"),
        ({"prompt": "x", "model": ["default"]}, "unknown_model"),
        ({"prompt": "x", "id": ""}, "invalid_id"),
        ({"prompt": "x", "id": 7}, "invalid_id"),
        ({"prompt": "x", "id": "a\nb"}, "invalid_id"),
        ({"prompt": "x", "id": "\ud800"}, "invalid_id"),
        ({"prompt": "x", "id": "a" * 256}, "invalid_id"),
        ({"prompt": "x", "id": "streamstores.request/x"}, "invalid_id"),
    ],
)
async def test_a_start_with_a_wrong_field_is_refused(
    serve: Serve, chat_store: StreamStore, fields: dict[str, Any], code: str
) -> None:
    script = Script()
    chat = await serve(script.model)
    response = await chat.request("POST", "/stream", content=json.dumps(fields))
    assert refusal(response) == (400, code)
    assert await is_empty(chat_store)
    assert script.requests == []


@pytest.mark.parametrize("stream_id", [None, "", "a\0b", "a" * 256, "streamstores.request/x"])
async def test_an_invalid_id_is_refused(serve: Serve, stream_id: str | None) -> None:
    chat = await serve(Script().model)
    params = {} if stream_id is None else {"id": stream_id}
    for path in ("/stream/resume", "/stream/status"):
        assert refusal(await chat.get(path, **params)) == (400, "invalid_id")
    for path in ("/stream/resume", "/stream/stop"):
        assert refusal(await chat.post(path, **params)) == (400, "invalid_id")


@pytest.mark.parametrize("after", ["", "-1", "1.0", "x", " 1", "٣", "0x1", "9" * 21])
async def test_an_invalid_offset_is_refused(serve: Serve, after: str) -> None:
    chat = await serve(Script().say("abc", None).model)
    await chat.post("/stream", prompt="hi", id="s")
    response = await chat.get("/stream/resume", id="s", after=after)
    assert refusal(response) == (400, "invalid_after")


@pytest.mark.parametrize("after", [-1, 1.0, True, [], {}, "x"])
async def test_an_invalid_offset_in_a_body_is_refused(serve: Serve, after: Any) -> None:
    chat = await serve(Script().say("abc", None).model)
    await chat.post("/stream", prompt="hi", id="s")
    response = await chat.post("/stream/resume", id="s", after=after)
    assert refusal(response) == (400, "invalid_after")


@pytest.mark.parametrize("state", ["streaming", "done"])
async def test_every_offset_inside_a_character_or_an_event_is_refused(
    serve: Serve, state: str
) -> None:
    script = Script().say("aü", Event("usage", "x"), "🎈", Event("e"), "b")
    chat = await serve(script.model)
    async with chat.start(id="s") as events:
        ends = {0} | {int((await events.next()).id or 0) for _ in range(6)}
        if state == "done":
            script.say(None)
            await events.rest()
        for after in range(max(ends) + 1):
            if after in ends | {1}:  # 1 is between the characters of the first piece
                async with chat.follow("s", after) as other:
                    assert (await other.next()).name == "stream-id"
            else:
                response = await chat.get("/stream/resume", id="s", after=after)
                assert refusal(response) == (400, "invalid_after")


@pytest.mark.parametrize("mode", ["", "Follow", "continue"])
async def test_an_unknown_mode_is_refused(serve: Serve, mode: str) -> None:
    chat = await serve(Script().say(None).model)
    await chat.post("/stream", prompt="hi", id="s")
    response = await chat.get("/stream/resume", id="s", mode=mode)
    assert refusal(response) == (400, "invalid_mode")


async def test_a_missing_stream_is_not_found(serve: Serve, chat_store: StreamStore) -> None:
    chat = await serve(Script().say(None).model)
    await chat.post("/stream", prompt="hi", id="expired")
    await chat_store.expire("expired", 0.000_001)
    for stream_id in ("never", "expired"):
        assert refusal(await chat.get("/stream/resume", id=stream_id)) == (404, "not_found")
        follow = {"id": stream_id, "mode": "follow"}
        assert refusal(await chat.get("/stream/resume", **follow)) == (404, "not_found")
        assert refusal(await chat.post("/stream/resume", id=stream_id)) == (404, "not_found")
        assert refusal(await chat.post("/stream/stop", id=stream_id)) == (404, "not_found")
        assert refusal(await chat.get("/stream/status", id=stream_id)) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "", "/streams", "/stream/other", "/web/x.js"])
async def test_an_unknown_path_is_not_found(serve: Serve, path: str) -> None:
    chat = await serve(Script().model)
    assert refusal(await chat.get(path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/stream", "POST"),
        ("DELETE", "/stream/resume", "GET, POST"),
        ("GET", "/stream/stop", "POST"),
        ("POST", "/stream/status", "GET"),
        ("OPTIONS", "/stream", "POST"),
        ("POST", "/stream.js", "GET"),
    ],
)
async def test_a_method_that_a_path_does_not_allow_is_refused(
    serve: Serve, method: str, path: str, allow: str
) -> None:
    response = await (await serve(Script().model)).request(method, path)
    assert refusal(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == allow


async def parts(size: int, count: int) -> Any:
    for _ in range(count):
        yield b" " * size


@pytest.mark.parametrize("path", ["/stream", "/stream/resume", "/stream/stop"])
@pytest.mark.parametrize("how", ["announced", "in parts"])
async def test_a_body_over_its_bound_is_refused(serve: Serve, path: str, how: str) -> None:
    chat = await serve(Script().model, max_body_bytes=1_000)
    content = b" " * 1_001 if how == "announced" else parts(100, 11)
    assert refusal(await chat.request("POST", path, content=content)) == (413, "too_large")


async def test_a_body_at_its_bound_is_taken(serve: Serve) -> None:
    content = json.dumps({"prompt": "hi"}).ljust(1_000).encode()
    chat = await serve(Script().say(None, None).model, max_body_bytes=1_000)
    assert (await chat.request("POST", "/stream", content=content)).status_code == 200

    async def in_parts() -> Any:
        yield content[:500]
        yield content[500:]

    assert (await chat.request("POST", "/stream", content=in_parts())).status_code == 200


async def test_a_large_body_is_refused_before_it_is_sent() -> None:
    """By its Content-Length: the client is still waiting to send."""
    async with create_stream_handler(Script().model) as handler, serving(handler) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /stream HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("prompt", ["x" * 11, "ü" * 6])
async def test_a_prompt_over_its_bound_is_refused(serve: Serve, prompt: str) -> None:
    chat = await serve(Script().model, max_prompt_bytes=10)
    assert refusal(await chat.post("/stream", prompt=prompt)) == (413, "too_large")


@pytest.mark.parametrize("path", ["resume", "resume?mode"])
async def test_an_offset_beyond_the_end_is_refused(serve: Serve, path: str) -> None:
    chat = await serve(Script().say("abc", None).model)
    await chat.post("/stream", prompt="hi", id="s")
    mode = {"mode": "follow"} if "mode" in path else {}
    response = await chat.get("/stream/resume", id="s", after=4, **mode)
    assert refusal(response) == (416, "offset_out_of_range")
    assert response.json()["tail"] == 3
    response = await chat.post("/stream/resume", id="s", after=10**30)
    assert refusal(response) == (416, "offset_out_of_range")


async def test_an_offset_beyond_the_end_of_a_stopped_stream_does_not_continue_it(
    serve: Serve, chat_store: StreamStore
) -> None:
    chat = await serve(Script().model)
    async with chat.start(id="s") as events:
        await events.next()
        await chat.post("/stream/stop", id="s")
    before = await chat_store.info("s")
    response = await chat.get("/stream/resume", id="s", after=1)
    assert refusal(response) == (416, "offset_out_of_range")
    assert (await chat_store.info("s")).version == before.version


async def test_a_start_beyond_max_runs_is_refused(
    serve: Serve, chat_store: StreamStore
) -> None:
    script = Script()
    chat = await serve(script.model, max_runs=1)
    async with chat.start(id="s") as events:
        for stream_id in ({}, {"id": "other"}):
            response = await chat.post("/stream", prompt="hi", **stream_id)
            assert refusal(response) == (429, "too_many_streams")
            assert int(response.headers["retry-after"]) > 0
        async with chat.start(id="s") as attached:  # which starts nothing
            script.say("a", None)
            assert names(await attached.rest()) == ["stream-id", "message", "done"]
        await events.rest()
    assert [info.id async for info in chat_store.list()] == ["s"]


async def test_an_unexpected_error_is_logged_and_hidden_from_the_client(
    serve: Serve, caplog: Any
) -> None:
    def new_id(request: Any) -> str:
        raise RuntimeError("secret")

    chat = await serve(Script().model, new_id=new_id)
    response = await chat.post("/stream", prompt="hi")
    assert refusal(response) == (500, "internal")
    assert "secret" not in response.text
    assert "secret" in caplog.text


class Failing(Wrapping):
    """Fails every call once `fail` is set."""

    fail: Exception | None = None

    def __getattribute__(self, name: str) -> Any:
        error = super().__getattribute__("fail")
        if error is not None and name in ("create", "append", "read", "info", "expire", "wait"):

            async def fail(*args: Any, **options: Any) -> Any:
                raise error

            return fail
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailable("the host name"), "store_unavailable"),
        (OutcomeUnknown("x"), "outcome_unknown"),
    ],
)
async def test_an_error_of_the_store_is_answered_with_its_code(
    error: Exception, code: str
) -> None:
    store = Failing()
    handler = create_stream_handler(Script().model, store)
    async with serving(handler) as url, httpx.AsyncClient() as client:
        chat = Chat(handler, url, client)
        store.fail = error
        for response in (
            await chat.post("/stream", prompt="hi"),
            await chat.get("/stream/resume", id="s"),
            await chat.post("/stream/resume", id="s"),
            await chat.post("/stream/stop", id="s"),
            await chat.get("/stream/status", id="s"),
        ):
            assert refusal(response) == (503, code)
            assert int(response.headers["retry-after"]) > 0
            assert str(error) not in response.json()["error"].split()
    await store.inner.aclose()


async def test_a_body_that_the_store_cuts_ends_without_done() -> None:
    script, store = Script().say("a"), MemoryStreamStore()
    handler = create_stream_handler(script.model, store)
    async with serving(handler) as url, httpx.AsyncClient() as client:
        chat = Chat(handler, url, client)
        async with chat.start(id="s") as events:
            await events.next(), await events.next()
            await store.delete("s")
            assert await events.rest() == []
    await store.aclose()


# --- authorize


async def ask_everything(chat: Chat, stream_id: str) -> list[httpx.Response]:
    return [
        await chat.post("/stream", prompt="hi", id=stream_id),
        await chat.get("/stream/resume", id=stream_id),
        await chat.get("/stream/resume", id=stream_id, after=999_999),
        await chat.get("/stream/resume", id=stream_id, mode="follow"),
        await chat.post("/stream/resume", id=stream_id),
        await chat.post("/stream/stop", id=stream_id),
        await chat.get("/stream/status", id=stream_id),
    ]


async def no(*args: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "authorize", [no, lambda *args: False, lambda *args: None, lambda *args: 1 / 0]
)
async def test_a_refused_client_learns_and_changes_nothing(
    serve: Serve, chat_store: StreamStore, authorize: Any
) -> None:
    script = Script()
    chat = await serve(script.model, authorize=authorize)
    before = await chat_store.create("theirs", b"secret", state="stopped")
    theirs = await ask_everything(chat, "theirs")
    unknown = await ask_everything(chat, "unknown")
    assert {refusal(response) for response in theirs} == {(403, "forbidden")}
    assert [each.content for each in theirs] == [each.content for each in unknown]
    assert refusal(await chat.post("/stream", prompt="hi")) == (403, "forbidden")
    assert await chat_store.info("theirs") == before
    assert [info.id async for info in chat_store.list()] == ["theirs"]
    assert script.requests == []


async def test_authorize_is_asked_for_each_action(serve: Serve) -> None:
    asked: list[tuple[str, str]] = []

    async def authorize(request: Any, stream_id: str, action: str) -> bool:
        assert request.headers["host"]
        asked.append((stream_id, action))
        return True

    chat = await serve(
        Script().say(None).model, authorize=authorize, new_id=lambda request: "n"
    )
    await chat.post("/stream", prompt="hi", id="s")
    await chat.get("/stream/resume", id="s")
    await chat.get("/stream/resume", id="s", mode="follow")
    await chat.post("/stream/resume", id="s")
    await chat.post("/stream/stop", id="s")
    await chat.get("/stream/status", id="s")
    assert asked == [
        ("s", "start"),
        ("s", "follow"),
        ("s", "continue"),
        ("s", "follow"),
        ("s", "continue"),
        ("s", "stop"),
        ("s", "status"),
    ]
    asked.clear()
    async with chat.start():
        assert asked == [("n", "start")]


async def test_authorize_sees_the_request_and_its_body(serve: Serve) -> None:
    async def authorize(request: Any, stream_id: str, action: str) -> bool:
        return (await request.json())["sessionId"] == request.headers["x-session"] == "mine"

    chat = await serve(Script().say(None).model, authorize=authorize)
    for session, status in (("mine", 200), ("theirs", 403)):
        response = await chat.request(
            "POST",
            "/stream",
            json={"prompt": "hi", "sessionId": session},
            headers={"x-session": "mine"},
        )
        assert response.status_code == status


async def test_a_client_that_may_start_but_not_follow_cannot_attach(serve: Serve) -> None:
    chat = await serve(
        Script().say("secret", None).model,
        authorize=lambda request, stream_id, action: action == "start",
    )
    response = await chat.post("/stream", prompt="hi", id="s")
    assert refusal(response) == (403, "forbidden")
