"""A chat for `useChat`, whose answers survive: see the lines with `chats`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from streamstores import open_store
from streamstores.integrations.ai_sdk import AISDKChats


async def answer(messages: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Your model: here one that repeats what it is told, word by word."""
    yield {"type": "text-start", "id": "text"}
    for word in messages[-1]["parts"][0]["text"].split():
        yield {"type": "text-delta", "id": "text", "delta": f"{word} "}
        await asyncio.sleep(0.1)
    yield {"type": "text-end", "id": "text"}
    yield {"type": "finish"}


def create_app() -> FastAPI:
    chats = AISDKChats(open_store("sqlite:///chats.db"))
    app = FastAPI(lifespan=chats.streams.lifespan)

    @app.post("/api/chat")
    async def post(request: Request) -> Response:
        body = await request.json()
        return await chats.answer(body["id"], body, answer(body["messages"]))

    @app.get("/api/chat/{chat_id}/stream")
    async def resume(chat_id: str) -> Response:
        return await chats.resume(chat_id)

    @app.post("/api/chat/{chat_id}/stop")
    async def stop(chat_id: str, request: Request) -> Response:
        return await chats.stop(chat_id, await request.json())

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(Path(__file__).with_name("index.html"))

    @app.get("/app.js")
    async def script() -> FileResponse:
        return FileResponse(Path(__file__).with_name("app.js"))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
