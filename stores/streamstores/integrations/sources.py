"""Sources for `ResumableStreams`, made of what agent frameworks yield.

    await streams.response(stream_id, langchain_events(chain.astream_events(question)))

Each event is encoded once, when it is stored. Nothing of a framework is imported before it is
used. Written against `openai-agents` 0.24, `anthropic` 2, `langchain-core` 1 and `langgraph` 1.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from streamstores.http.resumable import AnySource, ServerSentEvent, iterate

__all__ = ["agent_events", "anthropic_events", "langchain_events", "langgraph_events"]

_ANTHROPIC_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)


async def agent_events(run: Callable[[], Any]) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of an agent of the OpenAI Agents SDK.

        agent_events(lambda: Runner.run_streamed(agent, "Hello"))

    `run` is called when the stream has begun, because the SDK starts an agent at once. An event
    is called as its `type` says. `raw_response_event` has the model's event as `data`;
    `run_item_stream_event` has the `name`, the name of the `agent` and the `item` as the model
    or the tool gave it; `agent_updated_stream_event` has the name of the `agent`.
    Closing this cancels the agent.
    """
    result = run()
    events = iterate(result.stream_events())
    try:
        async for event in events:
            yield _event(event.type, {"type": event.type, **_agent_fields(event)})
    finally:
        # Before the iterator is closed, which would wait for the agent's end.
        if not result.is_complete:
            result.cancel()
        await events.aclose()


async def anthropic_events(source: AnySource) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of a message of Anthropic, as its API sends them, so that `anthropic` clients
    understand them.

        anthropic_events(lambda: client.messages.create(..., stream=True))

    `source` may also be the iterator of `client.messages.stream(...)`, whose additional events
    are left out. Closing this closes the connection to Anthropic.
    """
    events = iterate(source)
    try:
        async for event in events:
            if event.type in _ANTHROPIC_EVENTS:
                yield ServerSentEvent(event.type, event.to_json(indent=None), None)
    finally:
        await events.aclose()


async def langchain_events(source: AnySource) -> AsyncGenerator[ServerSentEvent, None]:
    """What a runnable of LangChain yields, by `astream` or by `astream_events`.

    An event of `astream_events` is called as its `event` says, such as `on_chat_model_stream`.
    The chunks of `astream` have no name: messages are objects, and text is a JSON string.
    """
    pieces = iterate(source)
    try:
        async for piece in pieces:
            found: Any = piece
            is_event = isinstance(piece, Mapping) and {"event", "run_id"} <= piece.keys()
            yield _event(found["event"] if is_event else "", found)
    finally:
        await pieces.aclose()


async def langgraph_events(
    graph: Any,
    given: Any,
    config: Mapping[str, Any] | None = None,
    *,
    stream_mode: str | Sequence[str] = "values",
    subgraphs: bool = False,
    **options: Any,
) -> AsyncGenerator[ServerSentEvent, None]:
    """What `graph.astream(given, config, …)` yields, named as LangGraph's server names it.

    The name is the stream mode, such as `values`, `updates` or `messages`; that of a subgraph's
    event is followed by the subgraph's namespace, as in `values|agent:1`.
    """
    modes = [stream_mode] if isinstance(stream_mode, str) else list(stream_mode)
    pieces = iterate(
        graph.astream(given, config, stream_mode=modes, subgraphs=subgraphs, **options)
    )
    try:
        async for piece in pieces:
            namespace, mode, data = piece if subgraphs else ((), *piece)
            yield _event("|".join((mode, *namespace)), data)
    finally:
        await pieces.aclose()


def _event(name: str, data: Any) -> ServerSentEvent:
    """An event whose data may hold models, dataclasses and times at any depth. Raises
    `ValueError` for an object that has no JSON."""
    # All four frameworks bring it, and this package does not depend on it.
    encoded: bytes = import_module("pydantic_core").to_json(data, inf_nan_mode="null")
    return ServerSentEvent(name, encoded.decode(), None)


def _agent_fields(event: Any) -> dict[str, Any]:
    if event.type == "raw_response_event":
        return {"data": event.data.to_dict(mode="json")}
    if event.type == "agent_updated_stream_event":
        return {"agent": event.new_agent.name}
    item = event.item
    return {"name": event.name, "agent": item.agent.name, "item": item.raw_item}
