"""A graph of two nodes: one plans, and one says the words of the plan one by one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import uvicorn
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import open_store
from streamstores.integrations.langgraph import LangGraphRuns


class Answer(TypedDict, total=False):
    question: str
    plan: list[str]
    text: str


def plan(state: Answer) -> Answer:
    return {"plan": f"You asked: {state['question']}".split()}


async def say(state: Answer) -> Answer:
    for word in state["plan"]:
        get_stream_writer()({"word": word})
        await asyncio.sleep(0.2)
    return {"text": " ".join(state["plan"])}


builder = StateGraph(Answer)
builder.add_node("plan", plan)
builder.add_node("say", say)
builder.add_edge(START, "plan")
builder.add_edge("plan", "say")


def create_app() -> Starlette:
    graphs: dict[str, object] = {}
    runs = LangGraphRuns(open_store("sqlite:///runs.db"), graphs, heartbeat=1.0)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncSqliteSaver.from_conn_string("checkpoints.db") as saver:
            graphs["agent"] = builder.compile(checkpointer=saver)
            async with runs.lifespan(app):
                yield

    return Starlette(routes=[Mount("/", runs)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=2024)
