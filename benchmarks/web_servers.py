"""The servers of the HTTP cases, each in a process of its own.

`python -m benchmarks.web_servers NAME` prints its port.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn

from benchmarks.trial import stamp, stamps
from streamstores import MemoryStreamStore
from streamstores.http import (
    StreamRequest,
    create_durable_streams_app,
    create_stream_handler,
)

App = Callable[..., Awaitable[None]]


def chat_handler() -> App:
    """A model that answers with stamps.

    Its prompt says how many and at what rate. It begins with a single stamp and continues
    after another request with the prompt `go`.
    """
    go = asyncio.Event()

    async def model(request: StreamRequest) -> AsyncIterator[str]:
        if request.prompt == "go":
            go.set()
            return
        count, rate = json.loads(request.prompt)
        yield stamp().decode()
        await go.wait()
        async for each in stamps(count, rate):
            yield each.decode()

    return create_stream_handler(model)


def bare() -> App:
    """ASGI without a store: POST adds to a list, GET sends the list and what is added."""
    records: dict[str, list[bytes]] = defaultdict(list)
    waiters: dict[str, list[asyncio.Future[None]]] = defaultdict(list)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP")
        path = scope["path"]
        if scope["method"] == "GET":
            await follow(path, send)
            return
        message = await receive()
        if scope["method"] == "POST":
            records[path].append(message["body"])
            woken, waiters[path] = waiters[path], []
            for waiter in woken:
                waiter.set_result(None)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def follow(path: str, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = 0
        while True:
            while sent < len(records[path]):
                body = b"data: %b\n\n" % records[path][sent]
                await send({"type": "http.response.body", "body": body, "more_body": True})
                sent += 1
            waiter = asyncio.get_running_loop().create_future()
            waiters[path].append(waiter)
            await waiter

    return app


def ours() -> App:
    """Both handlers, each with a store in memory."""
    chat, durable = chat_handler(), create_durable_streams_app(MemoryStreamStore())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handler = chat if scope["path"].startswith("/stream") else durable
        await handler(scope, receive, send)

    return app


def rakaia() -> App:
    app: App = importlib.import_module("rakaia").create_app()
    return app


APPS: dict[str, Callable[[], App]] = {
    "bare": bare,
    "ours": ours,
    "rakaia": rakaia,
}


def listening_socket() -> socket.socket:
    """A socket that listens on a free port, so that a client may connect at once."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4_096)
    return listener


def main(name: str) -> None:
    listener = listening_socket()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(APPS[name](), log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
