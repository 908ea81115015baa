"""A pydantic-ai agent over AG-UI. Its model repeats what it is told, word by word."""

import asyncio
from pathlib import Path

import uvicorn
from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from streamstores import open_store
from streamstores.integrations.ag_ui import AGUIRuns

PAGE = Path(__file__).with_name("index.html")


async def parrot(messages, info):
    for word in messages[-1].parts[-1].content.split():
        await asyncio.sleep(0.3)
        yield word + " "


agent = Agent(FunctionModel(stream_function=parrot))  # or Agent("openai:…")


def create_app(store_url: str = "sqlite:///runs.db") -> Starlette:
    runs = AGUIRuns(open_store(store_url), heartbeat=1.0)

    async def run(request: Request):
        adapter = await AGUIAdapter.from_request(request, agent=agent)
        events = adapter.encode_stream(adapter.run_stream())
        return await runs.run(adapter.run_input, events)

    async def stop(request: Request):
        return await runs.stop(**request.path_params)

    routes = [
        Route("/", lambda request: FileResponse(PAGE)),
        Route("/agent", run, methods=["POST"]),
        Route("/agent/{thread_id}/{run_id}/stop", stop, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=runs.streams.lifespan)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
