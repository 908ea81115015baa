"""The endpoints of `useChat`, asked as its transport asks them. A browser does it in
`tests/browser`."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress

import httpx
import pytest

APP = "tests.integrations.ai_sdk_app:app"


def body(prompt: str, *, chat: str = "c", message: str = "m1", **fields) -> dict:
    said = {"id": message, "role": "user", "parts": [{"type": "text", "text": prompt}]}
    return {"id": chat, "messages": [said], "trigger": "submit-message", **fields}


class Answer:
    """The chunks of one response."""

    def __init__(self, status: int, headers, text: str) -> None:
        self.status, self.headers = status, headers
        found = re.findall(r"^data: (.*)$", text, re.MULTILINE)
        self.is_done = bool(found) and found[-1] == "[DONE]"
        self.chunks = [json.loads(each) for each in found if each != "[DONE]"]
        self.words = "".join(c["delta"] for c in self.chunks if c["type"] == "text-delta")
        self.types = [c["type"] for c in self.chunks]


async def ask(process, method, path, *, until=None, **options) -> Answer:
    """A response to its end, or until `until` words of it have come, or it is cut."""
    text = ""
    with suppress(httpx.ReadError, httpx.RemoteProtocolError):
        url = process.url + path
        async with process.client.stream(method, url, **options) as response:
            async for part in response.aiter_text():
                text += part
                if until is not None and text.count("text-delta") >= until:
                    break
    whole = text[: text.rfind("\n\n") + 2]
    return Answer(response.status_code, response.headers, whole)


def post(process, prompt, *, until=None, **fields):
    return ask(process, "POST", "/api/chat", until=until, json=body(prompt, **fields))


def resume(process, chat="c", *, until=None):
    return ask(process, "GET", f"/api/chat/{chat}/stream", until=until)


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def test_an_answer_is_a_ui_message_stream(start):
    process = await start(APP)
    answer = await post(process, "3 0")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.words == said(3)
    assert answer.types[0] == "start"
    assert answer.chunks[0]["messageId"] in answer.headers["x-stream-id"]
    assert answer.is_done


async def test_a_reload_gets_the_running_answer_from_its_first_chunk_and_then_204(start, calls):
    process, other = await start(APP), await start(APP)
    cut = await post(process, "100 0.01", until=5)
    answers = await asyncio.gather(resume(process), resume(other), resume(other))
    for answer in answers:
        assert answer.words == said(100)
        assert answer.types[0] == "start"
        assert answer.is_done
        assert answer.chunks[0] == cut.chunks[0], "the message keeps its id"
    assert calls() == 1
    after = await resume(other)
    assert (after.status, after.chunks) == (204, [])
    assert (await resume(other, "none")).status == 204


async def test_two_posts_at_once_are_one_generation(start, calls):
    processes = [await start(APP) for _ in range(2)]
    posts = [post(process, "50 0.01") for process in processes * 3]
    answers = await asyncio.gather(*posts)
    assert {answer.words for answer in answers} == {said(50)}
    assert calls() == 1


async def test_a_new_question_stops_the_answer_that_runs(start):
    process, other = await start(APP), await start(APP)
    first = asyncio.ensure_future(post(process, "100000 0.01"))
    while not (await resume(process, until=3)).words:
        await asyncio.sleep(0.01)
    second = await post(other, "4 0", message="m2")
    assert second.words == said(4)
    stopped = await asyncio.wait_for(first, 60)
    assert stopped.types[-1] == "abort"
    assert stopped.is_done


async def test_a_stop_reaches_the_model_and_spares_the_next_answer(start, calls):
    process, other = await start(APP), await start(APP)
    cut = await post(process, "100000 0.01", until=3)
    stream_id = cut.headers["x-stream-id"]
    path = "/api/chat/c/stop"
    wrong = await other.client.post(other.url + path, json={"streamId": "another"})
    assert wrong.json() == {"stopped": False}
    answer = asyncio.ensure_future(resume(other))
    right = await other.client.post(other.url + path, json={"streamId": stream_id})
    assert right.json() == {"stopped": True}
    assert (await asyncio.wait_for(answer, 60)).status in (200, 204)
    assert (await resume(process)).status == 204

    await post(process, "50 0.01", message="m2", until=3)
    late = await other.client.post(other.url + path, json={"streamId": stream_id})
    assert late.json() == {"stopped": False}
    assert (await resume(other)).words == said(50)
    assert calls() == 2


async def test_the_same_question_again_after_the_end_is_a_new_answer(start, calls):
    process = await start(APP)
    first = await post(process, "2 0")
    fields = {"trigger": "regenerate-message", "messageId": "a"}
    answers = [await post(process, "2 0", **fields) for _ in range(2)]
    assert [answer.words for answer in answers] == [said(2)] * 2
    ids = {answer.headers["x-stream-id"] for answer in [first, *answers]}
    assert (len(ids), calls()) == (3, 3)


async def test_a_killed_producer_leaves_an_end_and_no_reader_hangs(start):
    process, other = await start(APP), await start(APP)
    await post(process, "100000 0.01", until=5)
    reading = asyncio.ensure_future(resume(other))
    await asyncio.sleep(0)
    await process.kill()
    answer = await asyncio.wait_for(reading, 60)
    assert answer.words
    assert answer.types[-1] == "abort"
    assert answer.is_done
    assert (await resume(other)).status == 204


async def test_a_chat_is_reached_under_its_own_id_only(start):
    process = await start(APP)
    await post(process, "100 0.01", chat="alice:1", until=3)
    for guess in ("alice", "1", "alice:", "alice:11", "Alice:1", "alice:1%20", "alice%3A1%00"):
        answer = await resume(process, guess)
        assert answer.status in (204, 400)
        assert answer.chunks == []
    assert (await resume(process, "alice:1")).words == said(100)


@pytest.mark.parametrize("chat", ["", "x" * 300, "a\nb", 5, None])
async def test_an_invalid_chat_id_is_refused(start, chat):
    process = await start(APP)
    answer = await process.client.post(process.url + "/api/chat", json=body("1 0", chat=chat))
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_request"
