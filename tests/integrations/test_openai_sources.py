"""What the endpoint of the Responses API makes of a source's pieces, on memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import openai
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent
from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import MemoryStreamStore
from streamstores.integrations.openai_responses import OpenAIResponses
from tests.http.cutting_proxy import cutting_proxy
from tests.http.serving import serving
from tests.integrations.openai_clients import openai_clients


@asynccontextmanager
async def endpoint(respond, **options):
    """The `responses` of a client of an endpoint in this process."""
    responses = OpenAIResponses(MemoryStreamStore(), respond, **options)
    app = Starlette(routes=[Mount("/v1", responses)], lifespan=responses.lifespan)
    async with serving(app) as url, openai_clients() as client_of:
        yield client_of(url).responses


async def events_of(*pieces) -> list:
    """The events that a client gets for the pieces of a source."""

    async def source():
        for piece in pieces:
            yield piece

    async with endpoint(lambda request: source()) as responses:
        stream = await responses.create(model="m", input="x", stream=True)
        return [event async for event in stream]


def types(events) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


CALL = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
CALLED = {**CALL, "arguments": "{}"}


async def test_text_and_events_of_a_source_are_one_output_in_order():
    events = await events_of(
        "a ",
        "b",
        {"type": "response.output_item.added", "output_index": 1, "item": CALL},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
        {"type": "response.output_item.done", "output_index": 1, "item": CALLED},
        "c",
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    output = events[-1].response.output
    assert [item.type for item in output] == ["message", "function_call", "message"]
    assert [output[0].content[0].text, output[1].arguments] == ["a b", "{}"]
    assert events[-1].response.output_text == "a bc"
    assert len({item.id for item in output}) == 3
    assert types(events).count("output_item.added") == 3
    assert types(events).count("output_item.done") == 3


async def test_events_of_the_package_openai_are_taken_over_with_numbers_of_their_own():
    upstream = {"id": "resp_upstream", "object": "response", "model": "big", "created_at": 1}
    fields = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    part = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
    text = {"type": "output_text", "text": "ab", "annotations": []}
    output = [{**message, "content": [text]}]
    events = await events_of(
        {"type": "response.created", "response": upstream, "sequence_number": 7},
        ResponseTextDeltaEvent(
            type="response.output_text.delta", delta="ab", sequence_number=9, **part
        ),
        ResponseCompletedEvent.model_validate(
            {
                "type": "response.completed",
                "sequence_number": 11,
                "response": {**upstream, **fields, "status": "completed", "output": output},
            }
        ),
    )
    assert types(events) == ["created", "in_progress", "output_text.delta", "completed"]
    assert [event.sequence_number for event in events] == [0, 1, 2, 3]
    final = events[-1].response
    assert (final.id, final.model) == (events[0].response.id, "big")
    assert final.id != "resp_upstream"
    assert final.output_text == "ab"


async def test_a_source_without_output_is_an_empty_completed_response():
    events = await events_of()
    assert types(events) == ["created", "in_progress", "completed"]
    assert events[-1].response.output == []


async def test_a_source_may_end_its_response_incomplete():
    details = {"incomplete_details": {"reason": "max_output_tokens"}}
    events = await events_of("a", {"type": "response.incomplete", "response": details})
    assert types(events)[-1] == "incomplete"
    final = events[-1].response
    assert (final.status, final.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert final.output_text == "a"


@pytest.mark.parametrize(
    "pieces",
    [
        (5,),
        (b"bytes",),
        (["a list"],),
        ({"no": "type"},),
        ({"type": "response.output_text.delta", "delta": float("nan")},),
        ({"type": "response.completed"}, "after the end"),
    ],
)
async def test_what_is_no_event_of_a_response_fails_it(pieces):
    events = await events_of("a", *pieces)
    ends = [kind for kind in types(events) if kind in ("failed", "completed")]
    assert ends == [types(events)[-1]]
    assert events[-1].response.output_text == "a"


async def test_half_a_surrogate_pair_does_not_end_a_response():
    events = await events_of("a\ud83d")
    assert events[-1].response.output_text == "a?"


async def test_an_async_function_may_choose_the_source():
    async def respond(request):
        await asyncio.sleep(0)
        return iter([request.body["input"], request.user])

    async with endpoint(respond) as responses:
        assert (await responses.create(model="m", input="hello")).output_text == "hello"


async def test_on_memory_a_cut_response_resumes_in_two_tabs_and_is_cancelled():
    async def words():
        for number in range(100_000):
            yield f"{number} "
            await asyncio.sleep(0.005)

    responses = OpenAIResponses(MemoryStreamStore(), lambda request: words())
    app = Starlette(routes=[Mount("/v1", responses)], lifespan=responses.lifespan)
    async with (
        serving(app) as url,
        cutting_proxy(url) as (proxy, proxied),
        openai_clients() as client_of,
    ):
        proxy.answer_bytes = 5_000
        tab, other = client_of(proxied).responses, client_of(url).responses
        events = await until_cut(tab.create(model="m", input="x", stream=True))
        response_id = events[0].response.id
        whole = asyncio.ensure_future(until_cut(other.retrieve(response_id, stream=True)))
        for _ in range(3):
            after = events[-1].sequence_number
            events += await until_cut(
                tab.retrieve(response_id, stream=True, starting_after=after)
            )
        await tab.cancel(response_id)
        late = await until_cut(other.retrieve(response_id, stream=True))
        assert await asyncio.wait_for(whole, 60) == late
        assert late[: len(events)] == events
        assert [event.sequence_number for event in late] == list(range(len(late)))
        assert late[-1].response.status == "cancelled"


async def until_cut(stream) -> list:
    """The events to the end, or until the connection is cut."""
    events = []
    with suppress(openai.APIConnectionError):
        async for event in await stream:
            events += [event]
    return events
