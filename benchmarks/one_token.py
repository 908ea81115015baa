"""What one token costs on its way from a model to a client, by steps of the server.

    python -m benchmarks.one_token                   every store, beside plain streaming
    python -m benchmarks.one_token memory redis      only these

20 chats of 25 tokens a second go through uvicorn on asyncio's own loop, which lets its turns be
counted; so few that no tokens share a turn by chance. System calls are
counted by strace, if it is installed, in a second run, because it slows the server down.
"""

from __future__ import annotations

import asyncio
import collections
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import uvicorn

from benchmarks.chat_servers import APPS, App
from benchmarks.services import service
from benchmarks.subjects.chat import ChatServer
from benchmarks.web_servers import listening_socket

CHATS_AT_ONCE, RATE, SECONDS = 20, 25, 4
_LEAD_SECONDS = 1.0

counts: collections.Counter[str] = collections.Counter()


# ---- in the server's process


def serve(name: str, url: str) -> None:
    """Serve the chats, and at `/counts` what the loop has done so far."""
    listener = listening_socket()
    print(listener.getsockname()[1], flush=True)
    asyncio.run(_serve(with_counts(APPS[name](url)), listener))


async def _serve(app: App, listener: socket.socket) -> None:
    count_turns(asyncio.get_running_loop())
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listener])


def with_counts(app: App) -> App:
    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/counts":
            await app(scope, receive, send)
            return
        body = json.dumps(counts).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return counted


def count_turns(loop: Any) -> None:
    """Count the turns of the loop, and its callbacks by what they belong to."""
    select, run = loop._selector.select, asyncio.Handle._run

    def counted_select(timeout: float | None = None) -> Any:
        counts["turns of the loop"] += 1
        return select(timeout)

    def counted_run(handle: asyncio.Handle) -> None:
        counts[_kind_of(handle)] += 1
        run(handle)

    loop._selector.select = counted_select
    asyncio.Handle._run = counted_run  # type: ignore[method-assign]


def _kind_of(handle: Any) -> str:
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"step of {owner.get_coro().__qualname__}"
    if isinstance(handle, asyncio.TimerHandle):
        return f"timer: {getattr(callback, '__qualname__', callback)}"
    return f"callback {getattr(callback, '__qualname__', type(callback).__name__)}"


# ---- in the client's process


class CountedServer(ChatServer):
    """A chat server that counts what its loop does."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    async def open(self) -> None:
        self.command = (
            sys.executable,
            "-m",
            "benchmarks.one_token",
            "serve",
            self.name,
            self.url,
        )
        self._process = await asyncio.create_subprocess_exec(
            *self.command, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def counts(self) -> collections.Counter[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /counts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return collections.Counter(json.loads(re.search(rb"\{.*\}", answer)[0]))  # type: ignore[index]


async def profile(name: str, url: str, *, traced: bool) -> dict[str, float]:
    """Each step, as often as one token takes it."""
    server = CountedServer(name, url)
    await server.open()
    try:
        await server.warm_up()
        start = time.monotonic() + _LEAD_SECONDS
        length = RATE * (SECONDS + 2)
        clients = [
            await server.ask(f"c{number}", length, RATE, start + number / CHATS_AT_ONCE / RATE)
            for number in range(CHATS_AT_ONCE)
        ]
        await asyncio.sleep(start + 0.5 - time.monotonic())

        def taken() -> int:
            return sum(len(each.latencies) for each in clients)

        before = taken()
        if traced:
            found = await _system_calls(server.pid)
        else:
            first, used = await server.counts(), server.cpu_seconds
            await asyncio.sleep(SECONDS)
            used = server.cpu_seconds - used
            found = dict(await server.counts() - first)
            found["CPU, µs"] = used * 1e6
        tokens = taken() - before
        return {what: count / tokens for what, count in found.items()}
    finally:
        await server.aclose()


async def _system_calls(pid: int) -> dict[str, float]:
    tracing = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-c", "-p", str(pid)), stderr=subprocess.PIPE
    )
    await asyncio.sleep(SECONDS)
    with suppress(ProcessLookupError):
        tracing.send_signal(signal.SIGINT)
    _, table = await tracing.communicate()
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table.decode(), re.M)
    return {f"system call {name}": float(calls) for calls, name in rows if name != "total"}


def main(backends: list[str]) -> None:
    """A table for each server: what happens at least once in ten tokens."""
    for backend in backends:
        with service(backend) as server:
            for name in ("plain", "ours"):
                found: dict[str, float] = {}
                for traced in (False, True):
                    if not traced or shutil.which("strace"):
                        with server.fresh() as url:
                            found |= asyncio.run(profile(name, url, traced=traced))
                print(f"\n{backend}, {name}: for one token\n")
                for what, count in sorted(found.items(), key=lambda item: -item[1]):
                    if count >= 0.1:
                        print(f"| {what} | {count:.1f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        main(sys.argv[1:] or ["memory", "sqlite", "redis", "postgres"])
