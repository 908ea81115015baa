"""Waiting for what a Python client shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamstores.client import Stream
from tests.http.scripted_server import GIVE_UP_SECONDS


async def until(stream: Stream, condition: Callable[[], bool]) -> None:
    """Wait for a change that makes the condition true."""

    async def watch() -> None:
        while not condition():
            await stream._next_change()

    await asyncio.wait_for(watch(), GIVE_UP_SECONDS)
