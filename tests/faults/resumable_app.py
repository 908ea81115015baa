"""A FastAPI application of its own that counts, for processes that the tests kill."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from starlette.responses import Response

from streamstores import StreamInfo, open_store
from streamstores.http import ResumableStreams

COUNT = int(os.environ["COUNT"])
EVENT_BYTES = len("data: 0000\n\n")


async def numbers(first: int = 0) -> AsyncIterator[str]:
    for number in range(first, COUNT):
        yield f"data: {number:04}\n\n"
        await asyncio.sleep(0.005)


def go_on(info: StreamInfo) -> AsyncIterator[str] | None:
    """Each event has the same length, so the tail tells which number comes next."""
    return numbers(info.tail // EVENT_BYTES) if info.id.startswith("continued") else None


streams = ResumableStreams(open_store(os.environ["STORE"]), revive=go_on, heartbeat=1.0)
app = FastAPI(lifespan=streams.lifespan)


@app.post("/numbers/{stream_id}")
async def start(stream_id: str) -> Response:
    return await streams.response(stream_id, numbers)


@app.get("/numbers/{stream_id}")
async def resume(stream_id: str, request: Request) -> Response:
    return await streams.replay(stream_id, request)


@app.post("/numbers/{stream_id}/stop")
async def stop(stream_id: str) -> dict[str, str]:
    return {"state": str((await streams.stop(stream_id)).state)}
