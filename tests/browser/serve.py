"""A demo server in a process of its own, for tests to kill: `python -m tests.browser.serve`.

Its model writes a part of its text and then waits for `/go`, so that a test decides what has
been written when it acts. The demo page has its handler at `/chat`; the one at `/plain` gives
the same answers without the demo's event `question`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from streamstores import open_store
from streamstores.demo import Choice, create_demo, with_question
from streamstores.http import Event, StreamRequest, continues, create_stream_handler

PARTS = ["".join(f"line {10 * m + n}: слово, 言葉, 🌊\n" for n in range(10)) for m in range(8)]
TEXT = "".join(PARTS)
FIRST_PART_BYTES = len(PARTS[0].encode())
ODD_PIECES = [
    *("\ufeffstart\r", "\nline\rline\r\n", "\u2028 \u2029 \0 \x85", "👩‍👩‍👧‍👦", "é", " \n\n "),
    *("data: no\n", ": no\n\n", "\r\r", "🌊" * 50, "\n"),
]


# How many more parts may be written, for each prompt.
permits: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))


@continues
async def by_parts(request: StreamRequest) -> AsyncIterator[str | Event]:
    """The text part by part; the whole rest at once when it continues an answer."""
    if request.partial:
        yield TEXT.removeprefix(request.partial)
        return
    for part in PARTS:
        await permits[request.prompt].acquire()
        for line in part.splitlines(keepends=True):
            yield line


async def fast() -> AsyncIterator[str]:
    """About 2,000 characters a second, for three seconds."""
    for n in range(60):
        yield "".join(f"line {4 * n + m} of the text\n" for m in range(4))
        await asyncio.sleep(0.05)


@continues
async def page_model(request: StreamRequest) -> AsyncIterator[str | Event]:
    """The model of the demo page: the text in parts, or `fast` for a prompt that says so."""
    pieces = fast() if request.prompt.startswith("fast") else by_parts(request)
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


async def go(request: Request) -> Response:
    """Let some more parts of the answer to a prompt be written."""
    for _ in range(int(request.query_params["parts"])):
        permits[request.query_params["prompt"]].release()
    return Response()


async def odd(request: StreamRequest) -> AsyncIterator[str | Event]:
    """Every character that a wire of lines could lose, and two events."""
    for piece in ODD_PIECES:
        yield piece
        await asyncio.sleep(0)
    yield Event("usage", '{"outputTokens": 7}')
    yield Event("message", "not text")


async def failing(request: StreamRequest) -> AsyncIterator[str | Event]:
    yield "so far "
    raise RuntimeError("secret")


async def serve(port: int, store_url: str) -> None:
    models = {"parts": by_parts, "odd": odd, "failing": failing}
    async with open_store(store_url) as store:
        options: dict[str, Any] = {"heartbeat": 0.2, "ping_interval": 1.0}
        plain = create_stream_handler(models, store, **options)
        chat = create_stream_handler({"parts": with_question(page_model)}, store, **options)
        choice = Choice("parts", "a text for tests", by_parts)
        app = create_demo(chat, choice, store_url, store)
        app.router.routes[:0] = [Route("/go", go, methods=["POST"]), Mount("/plain", plain)]
        config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning")
        try:
            await uvicorn.Server(config).serve()
        finally:
            await chat.aclose()
            await plain.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.store))
