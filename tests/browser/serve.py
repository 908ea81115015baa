"""A demo server in a process of its own, for tests to kill: `python -m tests.browser.serve`.

Its model writes a part of its text and then waits for `/go`, so that a test decides what has
been written when it acts.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streamstores import open_store
from streamstores.demo import Choice, create_demo
from streamstores.http import Event, StreamRequest, continues, create_stream_handler

PARTS = ["".join(f"line {10 * m + n}: слово, 言葉, 🌊\n" for n in range(10)) for m in range(8)]
TEXT = "".join(PARTS)
FIRST_PART_BYTES = len(PARTS[0].encode())
ODD_PIECES = [
    *("\ufeffstart\r", "\nline\rline\r\n", "\u2028 \u2029 \0 \x85", "👩‍👩‍👧‍👦", "é", " \n\n "),
    *("data: no\n", ": no\n\n", "\r\r", "🌊" * 50, "\n"),
]


# For each prompt, how many more parts may be written.
permits: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))


@continues
async def by_parts(request: StreamRequest) -> AsyncIterator[str | Event]:
    """The text; part by part, unless it goes on from somebody else's."""
    if request.partial:
        yield TEXT.removeprefix(request.partial)
        return
    for part in PARTS:
        await permits[request.prompt].acquire()
        for line in part.splitlines(keepends=True):
            yield line


async def go(request: Request) -> Response:
    """Let the answer to a prompt be written on, by some parts."""
    for _ in range(int(request.query_params["parts"])):
        permits[request.query_params["prompt"]].release()
    return Response()


async def odd(request: StreamRequest) -> AsyncIterator[str | Event]:
    """Every character that a wire of lines may lose, and an event among them."""
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
        handler = create_stream_handler(models, store, heartbeat=0.2, ping_interval=1.0)
        app = create_demo(
            handler, Choice("parts", "a text for tests", by_parts), store_url, store
        )
        app.router.routes.insert(0, Route("/go", go, methods=["POST"]))
        config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning")
        try:
            await uvicorn.Server(config).serve()
        finally:
            await handler.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.store))
