"""The Responses API, with a model that says as many words as it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request

from streamstores import open_store
from streamstores.integrations.openai_responses import OpenAIResponses, ResponseRequest

CALLS = Path(os.environ["CALLS"])


def respond(request: ResponseRequest) -> AsyncIterator[object]:
    if request.body.get("model") == "unknown":
        raise HTTPException(404, "no such model")
    return words(request)


async def words(request: ResponseRequest) -> AsyncIterator[object]:
    """Each call is counted in a file."""
    with CALLS.open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    if request.body["input"] == "other":
        yield 5
    if request.body["input"] == "raise":
        yield "a "
        raise ValueError("a secret of the server")
    count, pause = request.body["input"].split()
    for number in range(len(request.text.split()), int(count)):
        yield f"{number} "
        await asyncio.sleep(float(pause))


def identify(request: Request) -> str | None:
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    return key if key in ("alice", "bob") else None


responses = OpenAIResponses(
    open_store(os.environ["STORE"]),
    respond,
    identify=identify,
    revive=respond if "REVIVE" in os.environ else None,
    heartbeat=1.0,
)
app = FastAPI(lifespan=responses.lifespan)
app.mount("/v1", responses)
