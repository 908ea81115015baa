"""Continuations: by the paused model, or by the model called again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore, StreamNotFound, StreamStore
from streamstores.http import Event, StreamRequest, continues, create_stream_handler
from streamstores.http._asgi.reserved import SAVED_REQUEST_PREFIX
from tests.http.conftest import Chat, Serve
from tests.http.serving import Script, names, serving, text_of

LONG = tuple({"role": "user", "content": "ü" * 1000} for _ in range(20))


def marked(script: Script) -> Any:
    @continues
    def model(request: StreamRequest) -> AsyncIterator[Any]:
        return script.model(request)

    return model


async def stop_after(chat: Chat, pieces: int, **fields: Any) -> None:
    """Start the stream "s", and stop it when so many pieces have come."""
    async with chat.start(id="s", **fields) as events:
        for _ in range(pieces + 1):
            await events.next()
        await chat.post("/stream/stop", id="s")
        await events.rest()


async def resumed(chat: Chat, after: int = 0) -> list[str]:
    """Continue "s" and read it to its end."""
    async with chat.resume("s", after) as events:
        rest = await events.rest()
    return [event.data or event.name for event in rest[1:]]


@pytest.mark.parametrize("messages", [(), LONG])
async def test_a_marked_model_goes_on_from_the_text_so_far(
    serve: Serve, messages: tuple[Any, ...]
) -> None:
    script = Script().say("Hé", Event("usage", "1"), "l")
    chat = await serve({"other": Script().model, "m": marked(script)}, pause_for=0)
    fields = {"system": "be", "sessionId": "t", "model": "m", "messages": messages}
    await stop_after(chat, 3, **fields)
    await script.is_closed.wait()
    script.say("lo", None)
    assert await resumed(chat, 3) == ["1", "l", "lo", "done"]
    first, second = script.requests
    assert second == StreamRequest("hi", "be", "m", "t", messages, "s", "Hél")
    assert (first.partial, second.scope, dict(second.headers)) == ("", {}, {})


async def test_a_model_that_is_not_marked_is_never_called_again(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model, pause_for=0)
    await stop_after(chat, 1)
    await script.is_closed.wait()
    for _ in range(3):
        assert await resumed(chat) == ["a", "stopped", "done"]
    assert len(script.requests) == 1


async def test_a_model_that_is_gone_continues_nothing(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve({"old": marked(script)}, pause_for=0)
    await stop_after(chat, 1)
    await chat.handler.aclose()
    chat = await serve({"new": marked(script)})
    assert await resumed(chat) == ["a", "stopped", "done"]
    assert len(script.requests) == 1


async def test_a_paused_model_is_preferred_to_a_second_call(serve: Serve) -> None:
    script = Script().say("a")
    chat, other = await serve(marked(script)), await serve(marked(script))
    for number, through in enumerate([chat, other, chat]):
        if number == 0:
            await stop_after(chat, 1)
        else:
            await through.post("/stream/stop", id="s")
        script.say("b")
        async with through.resume("s", number + 1) as events:
            assert (await events.next(), (await events.next()).data)[1] == "b"
    script.say(None)
    assert await resumed(other, 4) == ["done"]
    assert len(script.requests) == 1


async def test_a_paused_model_is_stepped_at_most_once_more(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(script.model)
    await stop_after(chat, 1)
    script.say("b", "c", "d")
    while script.steps < 2:
        await asyncio.sleep(0)
    await chat.get("/stream/status", id="s")  # some turns of the loop
    assert script.steps == 2
    script.say(None)
    assert await resumed(chat) == ["a", "b", "c", "d", "done"]


async def test_a_continuation_can_be_stopped_and_continued_too(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(marked(script), pause_for=0)
    await stop_after(chat, 1)
    for number, text in enumerate("bcd"):
        await script.is_closed.wait()
        script.is_closed.clear()
        script.say(text)
        async with chat.resume("s", number + 1) as events:
            await events.next()
            assert (await events.next()).data == text
            await chat.post("/stream/stop", id="s")
            await events.rest()
    assert [request.partial for request in script.requests] == ["", "a", "ab", "abc"]


async def test_a_continuation_that_fails_ends_in_an_error(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(marked(script), pause_for=0)
    await stop_after(chat, 1)
    await script.is_closed.wait()
    script.say(KeyError("no"))
    assert await resumed(chat) == ["a", "The model failed.", "done"]


async def requests_in(store: StreamStore) -> list[str]:
    return [info.id async for info in store.list(SAVED_REQUEST_PREFIX)]


async def test_a_long_request_lives_as_long_as_its_answer(
    serve: Serve, chat_store: StreamStore
) -> None:
    chat = await serve(marked(Script().say("a", None)), ttl=1000)
    await chat.post("/stream", prompt="hi", id="s", messages=LONG)
    [companion] = await requests_in(chat_store)
    before = await chat_store.info(companion)
    assert before.ttl == 1000
    await chat.get("/stream/resume", id="s", mode="follow")
    after = await chat_store.info(companion)
    assert after.expires_at is not None
    assert before.expires_at is not None
    assert after.expires_at > before.expires_at


async def test_a_repeated_post_leaves_no_second_request(
    serve: Serve, chat_store: StreamStore
) -> None:
    chat = await serve(marked(Script().say("a", None)))
    for _ in range(3):
        await chat.post("/stream", prompt="hi", id="s", messages=LONG)
    assert len(await requests_in(chat_store)) == 1


async def test_an_answer_can_be_read_after_its_saved_request_is_gone(
    serve: Serve, chat_store: StreamStore
) -> None:
    chat = await serve(marked(Script().say("a", None)))
    await chat.post("/stream", prompt="hi", id="s", messages=LONG)
    [companion] = await requests_in(chat_store)
    await chat_store.delete(companion)
    assert await resumed(chat) == ["a", "done"]


async def test_the_requests_of_models_that_are_not_marked_are_not_kept(
    serve: Serve, chat_store: StreamStore
) -> None:
    chat = await serve({"m": Script().say(None).model})
    await chat.post("/stream", prompt="secret", id="s", messages=LONG)
    assert [info.id async for info in chat_store.list()] == ["s"]
    assert set((await chat_store.info("s")).attributes) == {"owner", "model", "request_digest"}


async def test_a_request_too_long_to_keep_is_still_answered(serve: Serve) -> None:
    script = Script().say("a")
    chat = await serve(marked(script), pause_for=0, max_body_bytes=30_000_000)
    await stop_after(chat, 1, messages=[{"content": "x" * 17_000_000}])
    await script.is_closed.wait()
    assert await resumed(chat) == ["a", "stopped", "done"]


# --- reading lives on


@pytest.mark.parametrize("how", ["resume", "follow", "attach"])
async def test_a_stream_that_is_read_lives_on(
    serve: Serve, chat_store: StreamStore, how: str
) -> None:
    chat = await serve(Script().say("a", None).model, ttl=1000)
    await chat.post("/stream", prompt="hi", id="s")
    before = (await chat_store.info("s")).expires_at
    ways = {
        "resume": chat.resume("s"),
        "follow": chat.follow("s"),
        "attach": chat.start(id="s"),
    }
    async with ways[how] as events:
        await events.rest()
    after = (await chat_store.info("s")).expires_at
    assert before is not None
    assert after is not None
    assert after > before


async def test_reading_a_stream_of_another_writer_does_not_take_it_over(
    serve: Serve, chat_store: StreamStore
) -> None:
    await chat_store.create("kept", b"x", state="done")
    chat = await serve(Script().model)
    async with chat.follow("kept") as events:
        assert text_of(await events.rest()) == "x"
    assert (await chat_store.info("kept")).expires_at is None


async def test_a_stream_of_an_unknown_producer_is_followed(
    serve: Serve, chat_store: StreamStore
) -> None:
    """The stream is written by a StreamWriter, without a run."""
    await chat_store.create("theirs", b"a")
    chat = await serve(marked(Script()))
    async with chat.resume("theirs") as events:
        assert [(await events.next()).data, (await events.next()).data] == ["theirs", "a"]
        await chat_store.append("theirs", b"b", state="done")
        assert names(await events.rest()) == ["message", "done"]
    assert (await chat.get("/stream/status", id="theirs")).json()["model"] is None


# --- clients that do not read


class Counted:
    """An application around another that counts the bytes sent to each client."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.sent: dict[str, int] = {}
        self.ended: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = dict(scope.get("headers", ())).get(b"x-client", b"").decode()

        async def counted(message: Any) -> None:
            size = len(message.get("body", b""))
            self.sent[client] = self.sent.get(client, 0) + size
            await send(message)

        ended = self.ended.setdefault(client, asyncio.Event())
        await self.app(scope, receive, counted)
        ended.set()


async def open_frozen(url: str, stream_id: str) -> asyncio.StreamWriter:
    """A client that asks for a stream and never reads."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # not even into its buffer
    body = f'{{"prompt": "hi", "id": "{stream_id}"}}'
    head = (
        f"POST /stream HTTP/1.1\r\nHost: x\r\nX-Client: frozen\r\nContent-Length: {len(body)}"
    )
    writer.write(f"{head}\r\n\r\n{body}".encode())
    return writer


async def megabytes(request: StreamRequest) -> AsyncIterator[str]:
    for _ in range(64):
        yield "x" * 1_048_576


async def test_a_client_that_does_not_read_delays_no_other() -> None:
    handler = create_stream_handler(megabytes, ping_interval=0.05)
    counted = Counted(handler)
    async with handler, serving(counted, lifespan="off") as url:
        frozen = await open_frozen(url, "s")
        headers = {"x-client": "reader"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            chat = Chat(handler, url, client)
            async with chat.start(id="s") as events:
                assert len(text_of(await events.rest())) == 64 * 1_048_576
        # What the kernel's socket buffers take is gone; the rest is one batch at most.
        assert counted.sent["frozen"] < 16 * 1_048_576 < counted.sent["reader"]
        await handler.aclose()
        await counted.ended["frozen"].wait()  # the end does not wait for it either
        frozen.transport.abort()


async def test_a_model_that_is_not_kept_goes_as_fast_as_its_client_reads() -> None:
    steps = 0

    async def model(request: StreamRequest) -> AsyncIterator[str]:
        nonlocal steps
        while True:
            steps += 1
            yield "x" * 1_048_576

    handler = create_stream_handler(model, resumable=False)
    counted = Counted(handler)
    async with handler, serving(counted, lifespan="off") as url:
        frozen = await open_frozen(url, "s")
        seen = -1
        while seen != steps or not steps:
            seen = steps
            await asyncio.sleep(0.1)  # long enough for a model that nothing holds back
        assert steps < 64
        frozen.transport.abort()
        await counted.ended["frozen"].wait()


async def test_a_tight_model_leaves_the_loop_its_turns(serve: Serve) -> None:
    async def model(request: StreamRequest) -> AsyncIterator[str]:
        while True:
            yield "x"

    chat = await serve(model, pause_for=0)
    async with chat.start(id="s") as events:
        await events.next(), await events.next()
        assert (await chat.post("/stream/stop", id="s")).json()["state"] == "stopped"


async def test_a_stream_that_expires_during_a_read_does_not_look_finished(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        chat = await serve(Script().say("a").model, store)
        async with chat.start(id="s") as events:
            await events.next(), await events.next()
            await store.expire("s", 0.001)
            assert await events.rest() == []
        with pytest.raises(StreamNotFound):
            await store.info("s")
