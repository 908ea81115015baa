"""Servers of a chat endpoint, each in a process of its own, for the chat cases.

`python -m benchmarks.chat_servers NAME URL SERVER WORKERS` prints its port. Every server
answers `POST /stream {"prompt": "[count, rate, start]", "id": …}` with server-sent events: one
stamp at once, and from `start`, on the machine's monotonic clock, `count` more at `rate` a
second.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from threading import Thread
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

_GRANIAN_APP = "BENCHMARKS_GRANIAN_APP"  # the variable that tells its process the application


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

    return create_stream_handler(model, open_store(url), max_runs=20_000)


def plain(url: str) -> App:
    """Starlette's own streaming response. Nothing is kept."""

    async def events(prompt: str) -> AsyncIterator[bytes]:
        async for token in answer(prompt):
            yield b"data: %b\n\n" % token.encode()

    return _endpoint(lambda body: events(body["prompt"]))


def bare(url: str) -> App:
    """ASGI without a framework. Nothing is kept."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for token in answer(json.loads(body)["prompt"]):
            event = b"data: %b\n\n" % token.encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


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
    "bare": bare,
    "ours": ours,
    "assistant-stream": assistant_stream,
    "resumable-sse": resumable_sse,
}


def main(name: str, url: str, server: str, workers: str) -> None:
    """Serve from this process and from `workers - 1` copies of it, on one socket."""
    if server == "granian":
        _serve_with_granian(name, url)
        return
    listener = listening_socket()
    print(listener.getsockname()[1], flush=True)
    for _ in range(int(workers) - 1):
        if os.fork() == 0:
            break
    serve = _serve_with_uvicorn if server == "uvicorn" else _serve_with_hypercorn
    serve(APPS[name](url), listener)


def _serve_with_uvicorn(app: App, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", backlog=4_096
    )
    uvicorn.Server(config).run(sockets=[listener])


def _serve_with_hypercorn(app: App, listener: socket.socket) -> None:
    hypercorn: Any = importlib.import_module("hypercorn")
    serve = importlib.import_module("hypercorn.asyncio").serve
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "ERROR"
    importlib.import_module("uvloop").run(serve(app, config))


def _serve_with_granian(name: str, url: str) -> None:
    """It binds its own socket, and imports the application in a process of its own."""
    granian: Any = importlib.import_module("granian")
    listener = listening_socket()
    port = listener.getsockname()[1]
    listener.close()
    os.environ[_GRANIAN_APP] = json.dumps([name, url])
    server = granian.Granian(
        "benchmarks.chat_servers:granian_app",
        port=port,
        interface="asginl",
        loop="uvloop",
        log_enabled=False,
        factory=True,
        backlog=4_096,
    )
    Thread(target=_print_when_listening, args=(port,)).start()
    server.serve()


def _print_when_listening(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            print(port, flush=True)
            return


def granian_app() -> App:
    name, url = json.loads(os.environ[_GRANIAN_APP])
    return APPS[name](url)


if __name__ == "__main__":
    main(*sys.argv[1:])
