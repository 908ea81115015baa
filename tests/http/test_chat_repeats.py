"""A repeated POST with the same `id` attaches if it asks the same, and is refused if not."""

from __future__ import annotations

from typing import Any

import pytest

from streamstores import StreamStore
from tests.http.conftest import Serve
from tests.http.serving import Script, text_of

ASKED = {
    "prompt": "hi",
    "system": "be brief",
    "model": "second",
    "sessionId": "t",
    "messages": [{"role": "user", "content": ["x", 1]}],
}
OTHERS: list[dict[str, Any]] = [
    {"prompt": "hi "},
    {"system": None},
    {"model": None},
    {"sessionId": "u"},
    {"messages": [{"role": "user", "content": ["x", 2]}]},
    {"messages": None},
]


@pytest.mark.parametrize("state", ["streaming", "stopped", "done"])
@pytest.mark.parametrize("other", OTHERS, ids=str)
async def test_another_request_under_the_same_id_is_refused(
    serve: Serve, chat_store: StreamStore, other: dict[str, Any], state: str
) -> None:
    script, first = Script().say("answer"), Script()
    models = {"first": first.model, "second": script.model}
    quiet = {"heartbeat": 30}  # a heartbeat would move `expires_at`
    chat, elsewhere = await serve(models, **quiet), await serve(models, **quiet)
    async with chat.start(**ASKED, id="s") as events:
        await events.next(), await events.next()
        if state == "stopped":
            await chat.post("/stream/stop", id="s")
        elif state == "done":
            script.say(None)
            await events.rest()
        before = await chat_store.info("s")
        for process in (chat, elsewhere):
            refusal = await process.refused("/stream", **{**ASKED, **other, "id": "s"})
            assert refusal == (409, "id_conflict")
        after = await chat_store.info("s")
        assert (after.state, after.tail, after.expires_at) == (
            state,
            6,
            before.expires_at,
        )
    assert (len(script.requests), len(first.requests)) == (1, 0)


async def test_the_same_request_attaches(serve: Serve) -> None:
    script = Script().say("answer", None)
    models = {"first": Script().model, "second": script.model}
    chat, elsewhere = await serve(models), await serve(models)
    for process in (chat, elsewhere, chat):
        async with process.start(**ASKED, id="s") as events:
            assert text_of(await events.rest()) == "answer"
    assert len(script.requests) == 1


async def test_a_field_that_is_null_or_empty_equals_a_missing_field(serve: Serve) -> None:
    chat = await serve(Script().say("answer", None).model)
    nothing: dict[str, Any] = {"system": None, "model": None, "sessionId": None}
    for fields in ({}, {**nothing, "messages": None}, {**nothing, "messages": []}):
        async with chat.start(**fields, id="s") as events:
            assert text_of(await events.rest()) == "answer"


async def test_the_default_model_may_change_between_two_requests(serve: Serve) -> None:
    old = await serve({"old": Script().say("answer", None).model})
    async with old.start(id="s") as events:
        await events.rest()
    new = await serve({"new": Script().model, "old": Script().model})
    async with new.start(id="s") as events:
        assert text_of(await events.rest()) == "answer"


async def test_a_full_process_compares_too(serve: Serve) -> None:
    script = Script().say("answer")
    chat = await serve(script.model, max_runs=1)
    async with chat.start(id="s") as events:
        await events.next()
        refusal = await chat.refused("/stream", prompt="other", id="s")
        assert refusal == (409, "id_conflict")
        script.say(None)
        async with chat.start(id="s") as again:
            assert text_of(await again.rest()) == "answer"


async def test_a_stream_of_another_writer_is_attached_to(
    serve: Serve, chat_store: StreamStore
) -> None:
    await chat_store.create("s", b"theirs", state="done")
    chat = await serve(Script().model)
    async with chat.start(id="s") as events:
        assert text_of(await events.rest()) == "theirs"


async def test_equal_requests_leave_different_attributes(
    serve: Serve, chat_store: StreamStore
) -> None:
    """An administrator of the store cannot see that two users asked the same."""
    chat = await serve(Script().say("a", None, "b", None).model)
    for stream_id in ("ann", "ben"):
        async with chat.start("same", id=stream_id) as events:
            await events.rest()
    ann, ben = await chat_store.info("ann"), await chat_store.info("ben")
    equal = set(ann.attributes.items()) & set(ben.attributes.items())
    assert {name for name, _ in equal} <= {"model"}
    assert "same" not in str(ann.attributes)
