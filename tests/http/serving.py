"""An ASGI application on a real loopback socket, and a reader of the events it sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import httpx
import uvicorn

from streamstores.http import StreamRequest

KEEP_ALIVE = ("--timeout-keep-alive", "300")
"""For uvicorn, whose 5 seconds are also those of httpx: a slow machine would close an idle
connection just when the next request of a test is sent."""


@asynccontextmanager
async def serving(app: Any, *, lifespan: Literal["on", "off"] = "on") -> AsyncIterator[str]:
    """The URL of `app`, served in this loop."""
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        timeout_keep_alive=int(KEEP_ALIVE[1]),
        timeout_graceful_shutdown=5,
        lifespan=lifespan,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.shutdown()


class Received(NamedTuple):
    name: str
    id: str | None
    data: str


class Events:
    """The events of one response, one at a time, by the rules of the seed's client: blocks end
    with a blank line, and lines with a line feed."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._chunks = response.aiter_bytes()
        self._buffer = b""

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Received:
        while b"\n\n" not in self._buffer:
            self._buffer += await anext(self._chunks)
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return _parse(block.decode())

    async def next(self) -> Received:
        """The next event that is not a ping."""
        while (event := await anext(self)).name == "ping":
            pass
        return event

    async def rest(self) -> list[Received]:
        """All events to the end of the body, without pings."""
        return [event async for event in self if event.name != "ping"]


def _parse(block: str) -> Received:
    name, event_id, data = "message", None, []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            event_id = value
        else:
            assert field == "data", block
            data.append(value)
    return Received(name, event_id, "\n".join(data))


def text_of(events: list[Received]) -> str:
    return "".join(event.data for event in events if event.name == "message")


def names(events: list[Received]) -> list[str]:
    return [event.name for event in events]


class Script:
    """A model whose pieces the test chooses one by one, for one stream at a time."""

    def __init__(self) -> None:
        self.requests: list[StreamRequest] = []
        self.steps = 0
        self.is_closed = asyncio.Event()
        self._lines: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *lines: Any) -> Script:
        """Pieces to yield, an exception to raise, or None to end."""
        for line in lines:
            self._lines.put_nowait(line)
        return self

    async def model(self, request: StreamRequest) -> AsyncIterator[Any]:
        self.requests.append(request)
        try:
            while (line := await self._lines.get()) is not None:
                self.steps += 1
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            self.is_closed.set()
