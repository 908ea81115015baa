"""Servers of a chat endpoint, each in a process of its own, for the chat cases.

`python -m benchmarks.chat_servers NAME URL` prints its port. Every server answers
`POST /stream {"prompt": "[count, rate, start]", "id": …}` with server-sent events: one stamp at
once, and from `start`, on the machine's monotonic clock, `count` more at `rate` a second.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.subjects import MAX_CONNECTIONS, take_option
from benchmarks.trial import stamp, stamps
from benchmarks.web_servers import listening_socket
from streamstores import open_store
from streamstores.http import StreamRequest, create_stream_handler

App = Callable[..., Awaitable[None]]


async def answer(prompt: str) -> AsyncIterator[str]:
    """The model of every server."""
    count, rate, start = json.loads(prompt)
    yield stamp().decode()
    async for each in stamps(count, rate, start - time.monotonic()):
        yield each.decode()


def ours(url: str) -> App:
    async def model(request: StreamRequest) -> AsyncIterator[str]:
        async for token in answer(request.prompt):
            yield token

    return create_stream_handler(model, open_store(url))


def plain(url: str) -> App:
    """Starlette's own streaming response. Nothing is kept."""

    async def events(prompt: str) -> AsyncIterator[bytes]:
        async for token in answer(prompt):
            yield b"data: %b\n\n" % token.encode()

    return _endpoint(lambda body: events(body["prompt"]))


def assistant_stream(url: str) -> App:
    """Its resumable context, which its documentation puts into an endpoint like this."""
    resumable: Any = importlib.import_module("assistant_stream.resumable")
    client, prefix = _redis(url)
    store = resumable.create_redis_resumable_stream_store(client, key_prefix=prefix)
    context = resumable.create_resumable_stream_context(store=store)

    async def events(body: dict[str, Any]) -> AsyncIterator[bytes]:
        async def make() -> AsyncIterator[bytes]:
            async for token in answer(body["prompt"]):
                yield b"data: %b\n\n" % token.encode()

        async for chunk in await context.run(body["id"], make):
            yield chunk

    return _endpoint(events)


def resumable_sse(url: str) -> App:
    """Its `stream` with a generator, as its documentation shows."""
    factory: Any = importlib.import_module("resumable_sse.factory")
    client, prefix = _redis(url)
    streamer = factory.get_streamer(
        backend="redis",
        redis_client=client,
        stream_prefix=f"{prefix}:stream",
        status_prefix=f"{prefix}:status",
    )

    async def events(body: dict[str, Any]) -> AsyncIterator[bytes]:
        async for event in streamer.stream(body["id"], answer(body["prompt"])):
            if event["event"] == "message":
                yield b"id: %b\ndata: %b\n\n" % (
                    str(event.get("id", "")).encode(),
                    event["data"].encode(),
                )

    return _endpoint(events)


def _endpoint(events: Callable[[dict[str, Any]], AsyncIterator[bytes]]) -> App:
    async def stream(request: Request) -> StreamingResponse:
        body = json.loads(await request.body())
        return StreamingResponse(events(body), media_type="text/event-stream")

    return Starlette(routes=[Route("/stream", stream, methods=["POST"])])


def _redis(url: str) -> tuple[Any, str]:
    url, prefix = take_option(url, "prefix")
    redis: Any = importlib.import_module("redis.asyncio")
    return redis.Redis.from_url(url, max_connections=MAX_CONNECTIONS), prefix


APPS: dict[str, Callable[[str], App]] = {
    "plain": plain,
    "ours": ours,
    "assistant-stream": assistant_stream,
    "resumable-sse": resumable_sse,
}


def main(name: str, url: str) -> None:
    listener = listening_socket()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        APPS[name](url), log_level="error", access_log=False, lifespan="off", backlog=4_096
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
