"""A pydantic-ai agent that counts, behind AG-UI and behind the Vercel adapter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.ui.ag_ui import AGUIAdapter
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from starlette.responses import Response

from streamstores import open_store
from streamstores.integrations.ag_ui import AGUIRuns
from streamstores.integrations.ai_sdk import AISDKChats

CALLS = Path(os.environ["CALLS"])
GO = Path(os.environ.get("GO", os.environ["CALLS"]))


async def count(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    """Numbers, as many as the prompt says and with its pause; half-way it waits for `GO`.

    A third word of the prompt, `raise`, says what happens at the end.
    """
    with CALLS.open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    prompt: Any = messages[-1].parts[-1].content
    text = prompt if isinstance(prompt, str) else prompt[0]
    number, pause, *then = str(text).split()
    for each in range(int(number)):
        while each == int(number) // 2 and not GO.exists():
            await asyncio.sleep(0.02)
        yield f"{each} "
        await asyncio.sleep(float(pause))
    if then == ["raise"]:
        raise ValueError("the model failed")


agent = Agent(FunctionModel(stream_function=count))
store = open_store(os.environ["STORE"])
runs = AGUIRuns(store, heartbeat=0.5, ttl=float(os.environ.get("TTL", "86400")))
chats = AISDKChats(store, heartbeat=0.5)
app = FastAPI(lifespan=runs.streams.lifespan)


def user_of(request: Request) -> str:
    return request.headers.get("x-user", "alice")


@app.post("/agent")
async def run(request: Request) -> Response:
    adapter = await AGUIAdapter.from_request(request, agent=agent)
    events = adapter.encode_stream(adapter.run_stream())
    return await runs.run(adapter.run_input, events, owner=user_of(request), request=request)


@app.get("/agent")
async def join(request: Request, threadId: str, runId: str) -> Response:  # noqa: N803
    return await runs.join(threadId, runId, request, owner=user_of(request))


@app.post("/agent/{thread_id}/{run_id}/stop")
async def stop(thread_id: str, run_id: str, request: Request) -> Response:
    return await runs.stop(thread_id, run_id, owner=user_of(request))


@app.post("/api/chat")
async def post(request: Request) -> Response:
    adapter = await VercelAIAdapter.from_request(request, agent=agent)
    events = adapter.encode_stream(adapter.run_stream())
    return await chats.answer(adapter.run_input.id, await request.json(), events)


@app.get("/api/chat/{chat_id}/stream")
async def resume(chat_id: str) -> Response:
    return await chats.resume(chat_id)


@app.post("/api/chat/{chat_id}/stop")
async def stop_chat(chat_id: str, request: Request) -> Response:
    return await chats.stop(chat_id, await request.json())
