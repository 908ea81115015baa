"""Background responses of OpenAI, for which the endpoint of ours stands in."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from streamstores._sse import EventParser
from streamstores.integrations._openai_events import ResponseEvents, encoded, response_object
from streamstores.integrations.openai_responses import background_response
from tests.http.cutting_proxy import cutting_proxy
from tests.http.serving import serving
from tests.integrations.openai_clients import openai_clients

OPENAI = "tests.integrations.openai_responses_app:app"
APP = "tests.integrations.openai_background_app:app"


@pytest.fixture
def start_app(start):
    """Starts processes of the application, whose OpenAI is at a URL."""

    def start_app(url: str, **more: str):
        return start(APP, OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_KEY="alice", **more)

    return start_app


async def ask(process, method, *, until=None, headers=None, prompt=None) -> list:
    """The events of the answer with their ids, to the end, the cut, or until `until`."""
    parser, events = EventParser(), []
    url = f"{process.url}/answers/a"
    options = {"params": {"prompt": prompt}} if prompt else {}
    with suppress(httpx.ReadError, httpx.RemoteProtocolError):
        async with process.client.stream(method, url, headers=headers, **options) as response:
            assert response.status_code in (200, 204)
            async for chunk in response.aiter_bytes():
                events += parser.feed(chunk)
                if until is not None and len(events) >= until:
                    break
    return events


def numbers(events) -> list[int]:
    return [json.loads(event.data)["sequence_number"] for event in events]


def text_of(events) -> str:
    found = [json.loads(event.data) for event in events]
    return "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def test_a_source_resumes_at_openai_after_every_cut(start, start_app, calls):
    upstream = await start(OPENAI)
    async with cutting_proxy(upstream.url) as (proxy, url):
        proxy.answer_bytes = 8_000
        process = await start_app(url)
        events = await ask(process, "POST", prompt="300 0.002")
    assert proxy.connections > 4
    assert numbers(events) == list(range(len(events)))
    assert text_of(events) == said(300)
    assert events[-1].name == "response.completed"
    assert calls() == 1


async def test_another_process_resumes_the_response_of_a_killed_one(start, start_app, calls):
    upstream = await start(OPENAI)
    process, other = await start_app(upstream.url), await start_app(upstream.url)
    begun = await ask(process, "POST", prompt="200 0.02", until=10)
    headers = {"Last-Event-ID": begun[-1].id}
    reading = asyncio.ensure_future(ask(other, "GET", headers=headers))
    await asyncio.sleep(0)
    await process.kill()
    events = begun + await asyncio.wait_for(reading, 60)
    assert numbers(events) == list(range(len(events)))
    assert text_of(events) == said(200)
    assert [event.data for event in await ask(other, "GET")] == [e.data for e in events]
    assert calls() == 1, "OpenAI has generated one response"


async def test_a_cancelled_response_ends_the_answer(start, start_app):
    upstream = await start(OPENAI)
    process = await start_app(upstream.url)
    begun = await ask(process, "POST", prompt="100000 0.01", until=5)
    reading = asyncio.ensure_future(ask(process, "GET"))
    async with openai_clients() as client_of:
        response_id = json.loads(begun[0].data)["response"]["id"]
        await client_of(upstream.url).responses.cancel(response_id)
    events = await asyncio.wait_for(reading, 60)
    assert events[-1].name == "response.incomplete"
    assert numbers(events) == list(range(len(events)))


async def test_openai_that_stays_away_ends_the_answer_in_an_error(start, start_app):
    upstream = await start(OPENAI)
    process = await start_app(upstream.url, ATTEMPTS="3")
    await ask(process, "POST", prompt="100000 0.01", until=5)
    reading = asyncio.ensure_future(ask(process, "GET"))
    await upstream.kill()
    assert (await asyncio.wait_for(reading, 60))[-1].name == "error"


async def test_events_that_are_sent_again_are_stored_once():
    words = [f"{number} " for number in range(5)]
    asked = []

    async def respond(request):
        """Three events at first; then all of them, whatever the client has."""
        asked.append(request.method)
        events = ResponseEvents(response_object("resp_1", {}, 0))
        sent = [*events.begin(), *(e for word in words for e in events.of(word))]
        sent = sent[:3] if request.method == "POST" else [*sent, *events.end()]
        text = "".join(f"data: {encoded(event)}\n\n" for event in sent)
        return Response(text, media_type="text/event-stream")

    route = Route("/v1/{path:path}", respond, methods=["GET", "POST"])
    async with serving(Starlette(routes=[route])) as url, openai_clients() as client_of:
        source = background_response(client_of(url), model="m", input="x", pause=0.01)
        events = [event async for event in source]
    assert asked == ["POST", "GET"]
    assert numbers(events) == list(range(len(events)))
    assert text_of(events) == said(5)


async def test_a_refused_request_is_not_repeated(start, start_app, calls):
    upstream = await start(OPENAI)
    async with cutting_proxy(upstream.url) as (proxy, url):
        process = await start(APP, OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_KEY="mallory")
        events = await ask(process, "POST", prompt="3 0")
        assert [event.name for event in events] == ["error"]
        assert proxy.connections == 1
    assert calls() == 0
