"""LangGraph's endpoint, with a graph that says as many words as it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

from fastapi import FastAPI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from starlette.requests import Request

from streamstores import open_store
from streamstores.integrations.langgraph import LangGraphRuns

CALLS = Path(os.environ["CALLS"])


class Asked(TypedDict, total=False):
    prompt: str
    plan: str
    text: str


def plan(state: Asked) -> Asked:
    """Each call is counted in a file."""
    with CALLS.open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    return {"plan": f"to say {state['prompt']}"}


async def answer(state: Asked) -> Asked:
    if state["prompt"] == "raise":
        raise ValueError("a secret of the server")
    if state["prompt"] == "object":
        get_stream_writer()(object())
    if state["prompt"] == "ask":
        return {"text": interrupt("what?")}
    count, pause = state["prompt"].split()
    for number in range(int(count)):
        get_stream_writer()({"word": number})
        await asyncio.sleep(float(pause))
    return {"text": f"said {count}"}


builder = StateGraph(Asked)
builder.add_node("plan", plan)
builder.add_node("answer", answer)
builder.add_edge(START, "plan")
builder.add_edge("plan", "answer")


def identify(request: Request) -> str | None:
    user = request.headers.get("x-api-key")
    return user if user in ("alice", "bob") else None


graphs: dict[str, object] = {
    "agent": builder.compile(checkpointer=InMemorySaver()),
    "plain": builder.compile(),
}
runs = LangGraphRuns(open_store(os.environ["STORE"]), graphs, identify=identify, heartbeat=1.0)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncSqliteSaver.from_conn_string(f"{CALLS}.checkpoints") as saver:
        graphs["kept"] = builder.compile(checkpointer=saver)
        async with runs.lifespan(app):
            yield


app = FastAPI(lifespan=lifespan)
app.mount("/graphs", runs)
