"""Uvicorn processes of an application, and their ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import httpx

from tests.http.serving import KEEP_ALIVE

Start = Callable[..., Awaitable["Process"]]


class Process(NamedTuple):
    url: str
    child: asyncio.subprocess.Process
    client: httpx.AsyncClient

    async def kill(self) -> None:
        self.child.kill()
        await self.child.wait()


async def start_process(
    stack: AsyncExitStack,
    client: httpx.AsyncClient,
    app: str,
    port: int = 0,
    **environment: str,
) -> Process:
    """`app`, as uvicorn names it, in a process that ends with `stack`."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "uvicorn", "--port", str(port), app),
        *KEEP_ALIVE,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    log = b""
    while b"Uvicorn running on" not in (line := await child.stderr.readline()):
        log += line
        assert line, log.decode()
    drain = asyncio.ensure_future(child.stderr.read())
    stack.push_async_callback(_end, child, drain)
    url = line.decode().partition("running on ")[2].split()[0]
    return Process(url, child, client)


async def _end(child: asyncio.subprocess.Process, log: asyncio.Future[bytes]) -> None:
    if child.returncode is None:
        child.kill()
    await child.wait()
    await log
