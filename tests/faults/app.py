"""The chat application of the workers: models whose text is known, and which note their calls
and ends.

    STORE       the store's URL
    NOTES       the file that the models write to, a line of JSON each time
    PAUSE_FOR   seconds that a stopped model is held
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator

from streamstores import open_store
from streamstores.http import StreamHandler, StreamRequest, continues, create_stream_handler

HEARTBEAT_SECONDS = 1.0
ENDINGS = [
    " ",
    ", ",
    "é ",
    "𝄞",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\0",
    "\u2028",
    "data: x\n\n",
    "\n ",
]


def pieces_of(prompt: str, count: int | None = None) -> list[str]:
    """The answer to a prompt, always the same: numbers, and text that is hard to send."""
    chance = random.Random(prompt)
    count = count or chance.randrange(100, 300)
    return [f"{number}{chance.choice(ENDINGS)}" for number in range(count)]


def note(what: str, request: StreamRequest) -> None:
    """Add a line to the notes, in one write, which lines of other processes do not split."""
    line = {
        "what": what,
        "id": request.id,
        "pid": os.getpid(),
        "partial": request.partial,
        "at": time.monotonic(),
    }
    notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(notes, json.dumps(line).encode() + b"\n")
    finally:
        os.close(notes)


async def tell(
    request: StreamRequest, pieces: list[str], pace_seconds: float
) -> AsyncIterator[str]:
    """The pieces after `request.partial`, which may end inside one of them."""
    note("called", request)
    try:
        end = 0
        for piece in pieces:
            end += len(piece)
            left = min(end - len(request.partial), len(piece))
            if left > 0:
                yield piece[-left:]
                await asyncio.sleep(pace_seconds)
    finally:
        note("halted", request)


@continues
def quick(request: StreamRequest) -> AsyncIterator[str]:
    return tell(request, pieces_of(request.prompt), 0.008)


@continues
def slow(request: StreamRequest) -> AsyncIterator[str]:
    return tell(request, pieces_of(request.prompt, 24), 0.1)


async def silent(request: StreamRequest) -> AsyncIterator[str]:
    """As many pieces as the prompt says, then silence."""
    note("called", request)
    try:
        for number in range(int(request.prompt)):
            yield f"{number} "
        await asyncio.Event().wait()
    finally:
        note("halted", request)


def make_app() -> StreamHandler:
    return create_stream_handler(
        {"quick": quick, "slow": slow, "silent": silent},
        open_store(os.environ["STORE"]),
        heartbeat=HEARTBEAT_SECONDS,
        ping_interval=2.0,
        pause_for=float(os.environ["PAUSE_FOR"]),
    )
