"""Uvicorn processes of an application, and their ends.

They are forked from a process that has imported all frameworks: importing them takes one to two
seconds, and hundreds of processes are started.
"""

from __future__ import annotations

import ast
import asyncio
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import httpx
import uvicorn

from tests.http.serving import KEEP_ALIVE

APPS = Path(__file__).parent
POLL_SECONDS = 0.01

Start = Callable[..., Awaitable["Process"]]


class Process(NamedTuple):
    url: str
    child: ForkServerProcess
    client: httpx.AsyncClient

    async def kill(self) -> None:
        self.child.kill()
        await asyncio.to_thread(self.child.join)


async def start_process(
    stack: AsyncExitStack,
    client: httpx.AsyncClient,
    app: str,
    port: int = 0,
    **environment: str,
) -> Process:
    """`app`, as uvicorn names it, in a process that ends with `stack`."""
    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
    log.touch()
    arguments = [app, "--port", str(port), *KEEP_ALIVE]
    child = _forks().Process(
        target=_serve, args=(arguments, {**os.environ, **environment}, str(log)), daemon=True
    )
    await asyncio.to_thread(child.start)
    stack.push_async_callback(_end, child)
    while "Uvicorn running on" not in (text := log.read_text()):
        assert child.is_alive(), text
        await asyncio.sleep(POLL_SECONDS)
    url = text.partition("Uvicorn running on ")[2].split()[0]
    return Process(url, child, client)


@cache
def _forks() -> ForkServerContext:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(sorted({"uvicorn", *_imports_of_applications()}))
    return forks


def _imports_of_applications() -> set[str]:
    """What the applications of this folder import, without the applications themselves: those
    read the environment of their process. What is not installed is passed over."""
    found: set[str] = set()
    for path in APPS.glob("*_app.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return {name for name in found if name.partition(".")[0] != "tests"}


def _serve(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    """Runs in the child."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("error")
    sys.argv = ["uvicorn", *arguments]
    uvicorn.main(arguments)


async def _end(child: ForkServerProcess) -> None:
    child.kill()
    await asyncio.to_thread(child.join)
    child.close()
