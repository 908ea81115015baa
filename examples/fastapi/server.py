"""A FastAPI endpoint that streams, made resumable: see the lines with `streams`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from streamstores import open_store
from streamstores.http import ResumableStreams

PAGE = Path(__file__).with_name("index.html")


async def answer(prompt: str) -> AsyncIterator[dict[str, str]]:
    """Your model: here one that repeats what it is told, word by word."""
    for word in prompt.split():
        yield {"text": f"{word} "}
        await asyncio.sleep(0.1)


def create_app() -> FastAPI:
    streams = ResumableStreams(open_store("sqlite:///answers.db"))
    app = FastAPI(lifespan=streams.lifespan)

    @app.post("/answers/{answer_id}")
    async def ask(answer_id: str, prompt: str) -> Response:
        return await streams.response(answer_id, answer(prompt))

    @app.get("/answers/{answer_id}")
    async def resume(answer_id: str, request: Request) -> Response:
        return await streams.replay(answer_id, request)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
