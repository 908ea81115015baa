"""A chat application for processes that the tests end in every way: it counts to a number.

Each call of a model adds a line to the file `CALLS`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from streamstores import SQLiteStreamStore
from streamstores.http import StreamRequest, continues, create_stream_handler

PACE_SECONDS = 0.005


async def counting(request: StreamRequest) -> AsyncIterator[str]:
    """As many numbers as the prompt says, each with a space after it."""
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{os.getpid()} {len(request.messages)} {request.partial}\n")
    first = int(request.partial.rpartition(" ")[0].rpartition(" ")[2] or -1) + 1
    for number in range(first, int(request.prompt)):
        yield f"{number} "
        await asyncio.sleep(PACE_SECONDS)


@continues
def continuing(request: StreamRequest) -> AsyncIterator[str]:
    return counting(request)


app = create_stream_handler(
    {"continuing": continuing, "counting": counting},
    SQLiteStreamStore(os.environ["DATABASE"]),
    heartbeat=1.0,  # a busy machine may keep it silent for three times as long
    cancel_on_disconnect="CANCEL_ON_DISCONNECT" in os.environ,
    watch_signals="WATCHES_NO_SIGNALS" not in os.environ,
)
