"""A chat application for `useChat`, whose model says as many words as it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from streamstores import open_store
from streamstores.integrations.ai_sdk import AISDKChats

CALLS = Path(os.environ["CALLS"])


async def words(body: dict[str, Any], first: int = 0) -> AsyncIterator[dict[str, Any]]:
    """UI message chunks. Each call is counted in a file."""
    with CALLS.open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    count, pause = body["messages"][-1]["parts"][0]["text"].split()
    if not first:
        yield {"type": "start"}
        yield {"type": "text-start", "id": "t"}
    for number in range(first, int(count)):
        yield {"type": "text-delta", "id": "t", "delta": f"{number} "}
        await asyncio.sleep(float(pause))
    yield {"type": "text-end", "id": "t"}
    yield {"type": "finish"}


chats = AISDKChats(open_store(os.environ["STORE"]), heartbeat=1.0)
app = FastAPI(lifespan=chats.streams.lifespan)


@app.post("/api/chat")
async def post(request: Request) -> Response:
    body = await request.json()
    return await chats.answer(body["id"], body, words(body))


@app.get("/api/chat/{chat_id}/stream")
async def resume(chat_id: str) -> Response:
    return await chats.resume(chat_id)


@app.post("/api/chat/{chat_id}/stop")
async def stop(chat_id: str, request: Request) -> Response:
    return await chats.stop(chat_id, await request.json())


if "PAGES" in os.environ:
    app.mount("/", StaticFiles(directory=os.environ["PAGES"], html=True))
