"""Sources of what agent frameworks yield, with the real packages and models that need no
network. Each is cut, joined late and stopped."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import anthropic
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from streamstores import MemoryStreamStore, State
from streamstores._sse import EventParser, ServerSentEvent
from streamstores.http import ResumableStreams
from streamstores.integrations.openai_responses import OpenAIResponses
from streamstores.integrations.sources import (
    agent_events,
    anthropic_events,
    langchain_events,
    langgraph_events,
)
from tests.http.serving import serving
from tests.integrations.openai_clients import openai_clients

TEXT = "All good things come to those who wait"


@pytest.fixture
async def streams():
    streams = ResumableStreams(MemoryStreamStore())
    async with streams.lifespan(None):
        yield streams


async def read(streams, stream_id="s", offset=0) -> list[ServerSentEvent]:
    """The events from an offset to the end of the stream."""
    parser, events = EventParser(), []
    async for part in streams.body(stream_id, offset=offset):
        events += parser.feed(part)
    return events


async def events_of(streams, source) -> list[ServerSentEvent]:
    """The events of a source, which are the same for a client that joins late, for two at once,
    and for one that resumes in the middle."""
    await streams.start("s", source)
    first, second = await asyncio.gather(read(streams), read(streams))
    assert first == second == await read(streams)
    middle = len(first) // 2
    assert await read(streams, offset=int(first[middle].id)) == first[middle + 1 :]
    assert (await streams.info("s")).state is State.DONE
    return first


def chat_model(text: str = TEXT) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(text)] * 5))


# --- LangChain


async def test_messages_of_a_chat_model_of_langchain_come_back(streams):
    events = await events_of(streams, langchain_events(chat_model().astream("hi")))
    chunks = [AIMessageChunk.model_validate(json.loads(event.data)) for event in events]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == TEXT
    assert {event.name for event in events} == {""}


async def test_text_of_a_chain_of_langchain_is_json(streams):
    chain = chat_model() | StrOutputParser()
    events = await events_of(streams, langchain_events(chain.astream("hi")))
    assert "".join(json.loads(event.data) for event in events) == TEXT


async def test_events_of_langchain_keep_their_names_and_messages(streams):
    source = langchain_events(chat_model().astream_events("hi", version="v2"))
    events = await events_of(streams, source)
    assert events[0].name == "on_chat_model_start"
    assert events[-1].name == "on_chat_model_end"
    said = [json.loads(e.data) for e in events if e.name == "on_chat_model_stream"]
    assert "".join(each["data"]["chunk"]["content"] for each in said) == TEXT


async def test_an_object_without_json_ends_the_stream_in_an_error(streams):
    async def pieces():
        yield {"number": float("inf")}
        yield {"object": object()}

    await streams.start("s", langchain_events(pieces()))
    events = await read(streams)
    assert [event.name for event in events] == ["", "error"]
    assert json.loads(events[0].data) == {"number": None}
    assert "object" not in events[1].data


# --- LangGraph


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


def graph_of(model):
    async def answer(state: Chat):
        return {"messages": [await model.ainvoke(state["messages"])]}

    inner = StateGraph(Chat)
    inner.add_node("answer", answer)
    inner.add_edge(START, "answer")
    outer = StateGraph(Chat)
    outer.add_node("agent", inner.compile())
    outer.add_edge(START, "agent")
    return outer.compile()


ASKED = {"messages": [{"role": "user", "content": "hi"}]}


async def test_events_of_langgraph_are_named_by_mode_and_subgraph(streams):
    source = langgraph_events(
        graph_of(chat_model()), ASKED, stream_mode=["values", "messages"], subgraphs=True
    )
    events = await events_of(streams, source)
    tokens = [json.loads(e.data) for e in events if e.name.startswith("messages|agent:")]
    assert "".join(message["content"] for message, _ in tokens) == TEXT
    assert tokens[0][1]["langgraph_node"] == "answer"
    values = [json.loads(event.data) for event in events if event.name == "values"]
    assert [m["content"] for m in values[-1]["messages"]] == ["hi", TEXT]


async def test_a_single_mode_of_langgraph_is_named_too(streams):
    events = await events_of(streams, langgraph_events(graph_of(chat_model()), ASKED))
    assert {event.name for event in events} == {"values"}


# --- Anthropic


def message_events(words: list[str]) -> list[dict[str, Any]]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word + " "},
            }
            for word in words
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    ]


class AnthropicApi:
    """The Messages API with an answer that never ends, or that is `TEXT`."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def messages(self, request) -> StreamingResponse:
        is_endless = (await request.json())["messages"][0]["content"] == "endless"
        return StreamingResponse(self._events(is_endless), media_type="text/event-stream")

    async def _events(self, is_endless: bool):
        try:
            for event in message_events(TEXT.split()):
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                if is_endless and event["type"] == "content_block_delta":
                    await asyncio.sleep(3600)
        finally:
            self.left.set()


@asynccontextmanager
async def anthropic_client(app):
    async with serving(app) as url:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)
        async with client:
            yield client


@pytest.fixture
async def api():
    api = AnthropicApi()
    routes = [Route("/v1/messages", api.messages, methods=["POST"])]
    async with anthropic_client(Starlette(routes=routes)) as client:
        yield api, client


def asked(content: str = "hi") -> dict[str, Any]:
    said = [{"role": "user", "content": content}]
    return {"model": "claude", "max_tokens": 9, "messages": said}


async def test_anthropic_clients_understand_a_stored_message(streams, api):
    async def messages(request):
        source = anthropic_events(lambda: api[1].messages.create(**asked(), stream=True))
        return await streams.response("s", source)

    app = Starlette(routes=[Route("/v1/messages", messages, methods=["POST"])])
    async with anthropic_client(app) as client:
        for _ in range(2):  # the second is sent what is stored
            async with client.messages.stream(**asked()) as stream:
                message = await stream.get_final_message()
            assert message.content[0].text.split() == TEXT.split()
            assert message.stop_reason == "end_turn"
            assert message.usage.output_tokens == 9


async def test_the_additional_events_of_anthropics_helper_are_left_out(streams, api):
    async with api[1].messages.stream(**asked()) as helper:
        events = await events_of(streams, anthropic_events(helper))
    assert [json.loads(event.data)["type"] for event in events] == [
        event["type"] for event in message_events(TEXT.split())
    ]


async def test_a_stop_closes_the_connection_to_anthropic(streams, api):
    source = anthropic_events(lambda: api[1].messages.create(**asked("endless"), stream=True))
    await streams.start("s", source)
    async for _ in streams.follow("s"):
        break
    await streams.stop("s")
    await asyncio.wait_for(api[0].left.wait(), 30)


# --- the OpenAI Agents SDK


@asynccontextmanager
async def agent_of(respond):
    """An agent with a tool, whose model is served by the endpoint of ours."""
    agents = pytest.importorskip(
        "agents", reason="openai-agents is not installed: `tox -e agents` tests it"
    )
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def weather(city: str) -> str:
        return f"sunny in {city}"

    responses = OpenAIResponses(MemoryStreamStore(), respond)
    app = Starlette(routes=[Mount("/v1", responses)], lifespan=responses.lifespan)
    async with serving(app) as url, openai_clients() as client_of:
        model = agents.OpenAIResponsesModel("m", client_of(url))
        yield agents, agents.Agent(name="helper", model=model, tools=[weather])


async def test_events_of_an_agent_have_its_tools_and_its_text(streams):
    call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "weather"}

    async def respond(request):
        if not any(item.get("type") == "function_call_output" for item in given(request)):
            done = {**call, "arguments": '{"city": "Rome"}', "status": "completed"}
            yield {"type": "response.output_item.added", "output_index": 0, "item": done}
            yield {"type": "response.output_item.done", "output_index": 0, "item": done}
        else:
            for word in TEXT.split():
                yield word + " "

    def given(request):
        said = request.body["input"]
        return [] if isinstance(said, str) else said

    async with agent_of(respond) as (agents, agent):
        source = agent_events(lambda: agents.Runner.run_streamed(agent, "weather?"))
        events = await events_of(streams, source)
    found = [json.loads(event.data) for event in events]
    items = {each["name"]: each for each in found if each["type"] == "run_item_stream_event"}
    assert items["tool_called"]["item"]["arguments"] == '{"city": "Rome"}'
    assert items["tool_output"]["item"]["output"] == "sunny in Rome"
    assert items["message_output_created"]["agent"] == "helper"
    deltas = [e["data"] for e in found if e["type"] == "raw_response_event"]
    text = "".join(d["delta"] for d in deltas if d["type"] == "response.output_text.delta")
    assert text.split() == TEXT.split()
    assert found[0] == {"type": "agent_updated_stream_event", "agent": "helper"}


async def test_a_stop_cancels_the_agent(streams):
    async def respond(request):
        while True:
            yield "word "
            await asyncio.sleep(0.01)

    runs = []

    async with agent_of(respond) as (agents, agent):

        def run():
            runs.append(agents.Runner.run_streamed(agent, "hi"))
            return runs[-1]

        await streams.start("s", agent_events(run))
        async for record in streams.follow("s"):
            if b"output_text.delta" in record.data:
                break
        await streams.stop("s")
        # A source may also be closed while it waits for nothing, between two events.
        events = agent_events(run)
        async for event in events:
            if "output_text.delta" in event.data:
                break
        await asyncio.wait_for(events.aclose(), 30)
        tasks = [each.run_loop_task for each in runs]
        await asyncio.wait(tasks, timeout=30)
        assert all(task.done() for task in tasks)
