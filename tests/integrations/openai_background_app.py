"""An application's own endpoints, whose answers are background responses of OpenAI."""

from __future__ import annotations

import os

from fastapi import FastAPI, Request
from openai import AsyncOpenAI
from starlette.responses import Response

from streamstores import open_store
from streamstores.http import ResumableStreams
from streamstores.integrations.openai_responses import background_response, resumed_response

# OPENAI_BASE_URL and OPENAI_API_KEY say where and who.
client = AsyncOpenAI(max_retries=0)
store = open_store(os.environ["STORE"])
options = {"attempts": int(os.environ.get("ATTEMPTS", "6")), "pause": 0.05}
streams = ResumableStreams(
    store,
    heartbeat=1.0,
    revive=lambda info: resumed_response(client, store, info, **options),
)
app = FastAPI(lifespan=streams.lifespan)


@app.post("/answers/{stream_id}")
async def answer(stream_id: str, prompt: str) -> Response:
    source = background_response(client, model="m", input=prompt, **options)
    return await streams.response(stream_id, source)


@app.get("/answers/{stream_id}")
async def resume(stream_id: str, request: Request) -> Response:
    return await streams.replay(stream_id, request)
