"""Answers that are not kept: `resumable=False`."""

from __future__ import annotations

from streamstores.http import Event
from tests.http.conftest import Serve
from tests.http.serving import Received, Script, names


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
