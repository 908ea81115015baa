"""assistant-stream's resumable context on a store of ours: see the line with `context`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from assistant_stream import RunController, create_run
from assistant_stream.resumable import create_resumable_stream_context
from assistant_stream.serialization import DataStreamEncoder
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from streamstores import open_store
from streamstores.integrations.assistant_stream import AssistantStreamStore


async def answer(prompt: str) -> AsyncIterator[bytes]:
    """Your model: here one that repeats what it is told, word by word."""

    async def run(controller: RunController) -> None:
        for word in prompt.split():
            controller.append_text(f"{word} ")
            await asyncio.sleep(0.1)

    encoder = DataStreamEncoder()
    async for chunk in create_run(run):
        yield encoder.encode_chunk(chunk).encode()


def create_app() -> FastAPI:
    store = open_store("sqlite:///answers.db")
    context = create_resumable_stream_context(store=AssistantStreamStore(store))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with store:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/answers/{answer_id}")
    async def ask(answer_id: str, prompt: str) -> Response:
        return StreamingResponse(await context.run(answer_id, lambda: answer(prompt)))

    @app.get("/answers/{answer_id}")
    async def resume(answer_id: str) -> Response:
        stream = await context.resume(answer_id)
        return Response(status_code=404) if stream is None else StreamingResponse(stream)

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
