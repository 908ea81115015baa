"""What readers that take nothing cost a server, measured.

    python -m tests.faults.frozen_readers --server uvicorn --handler chat --clients 300

starts the server, lets many clients ask for a long answer without reading it, and prints the
memory that each of them costs, how many are still connected after `--wait` seconds, and how
long the server takes to end after SIGTERM. The servers other than uvicorn are not among this
project's dependencies: install granian and hypercorn to measure them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.services import free_port

STREAM_BYTES = 20_000_000
RECORD_BYTES = 40
COMMANDS = {
    "uvicorn": [
        "-m",
        "uvicorn",
        "--no-access-log",
        "--log-level",
        "warning",
        "--port",
        "{port}",
    ],
    "hypercorn": ["-m", "hypercorn", "--workers", "0", "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "{port}"],
}
PATHS = {
    "chat": "/chat/stream/resume?id=long&mode=follow",
    "durable": "/durable/long?offset=-1&live=sse",
    "catch-up": "/durable/long?offset=-1",
    "monitor": "/monitor/events?limit=10000",
}


def create_app(send_timeout: float | None) -> Any:
    """An application with all handlers on one store, which holds one long stream."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    from streamstores import MemoryStreamStore
    from streamstores.http import create_durable_streams_app, create_stream_handler
    from streamstores.http.monitor import create_monitor

    options = {} if send_timeout is None else {"send_timeout": send_timeout}
    store = MemoryStreamStore()
    chat = create_stream_handler(lambda request: "", store, **options)
    durable = create_durable_streams_app(store, live_seconds=600, **options)
    monitor = create_monitor(
        store, authorize=lambda request: True, interval=0.05, max_streams=10_000, **options
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        attributes = {"content-type": "text/plain"}
        await store.create("long", attributes=attributes, ttl=None)
        chunk = [b"x" * RECORD_BYTES] * 5_000
        for _ in range(STREAM_BYTES // (RECORD_BYTES * len(chunk))):
            await store.append("long", *chunk)
        for number in range(2_000):
            await store.create(f"short/{number}")
        async with store, chat, durable, monitor:
            yield

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/ready", lambda request: PlainTextResponse("yes")),
            Mount("/chat", chat),
            Mount("/durable", durable),
            Mount("/monitor", monitor),
        ],
    )


if "SEND_TIMEOUT" in os.environ:  # in the server's process, which imports `app` by name
    text = os.environ["SEND_TIMEOUT"]
    app = create_app(float(text) if text else None)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    total, pids = 0, [pid]
    while pids:
        each = pids.pop()
        with open(f"/proc/{each}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open(f"/proc/{each}/task/{each}/children") as file:
            pids += map(int, file.read().split())
    return total


def ask(port: int, path: str) -> socket.socket:
    """A connection that asks and never reads."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return connection


def connected_ports(port: int, *, full: bool = False) -> set[str]:
    """The clients that the kernel knows as connected to the server at `port`. With `full` only
    those for whom it holds bytes that it cannot send."""
    with open("/proc/net/tcp") as file:
        lines = [line.split() for line in file.readlines()[1:]]
    return {
        line[2]
        for line in lines
        if line[1].endswith(f":{port:04X}")
        and line[3] == "01"
        and not (full and line[4].startswith("00000000"))
    }


async def until_ready(port: int) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.0\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            writer.close()
        except OSError:
            answer = b""
        if b"200" in answer.partition(b"\r\n")[0]:
            return
        await asyncio.sleep(0.2)


async def measure(arguments: argparse.Namespace) -> None:
    port = free_port()
    command = [part.format(port=port) for part in COMMANDS[arguments.server]]
    extra = arguments.option or []
    environment = {**os.environ, "SEND_TIMEOUT": arguments.send_timeout}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *extra, "tests.faults.frozen_readers:app", env=environment
    )
    try:
        await asyncio.wait_for(until_ready(port), 60)
        before = rss_bytes(process.pid)
        clients = [ask(port, PATHS[arguments.handler]) for _ in range(arguments.clients)]
        peak = before
        deadline = time.monotonic() + arguments.wait
        while time.monotonic() < deadline:
            await asyncio.sleep(0.25)
            peak = max(peak, rss_bytes(process.pid))
        now = rss_bytes(process.pid)
        left = len(connected_ports(port))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 40)
            ended = f"{time.monotonic() - began:.1f} s"
        except asyncio.TimeoutError:
            ended = "not within 40 s"
        each = arguments.clients or 1
        print(
            f"{arguments.server} {arguments.handler} {arguments.clients} clients: "
            f"peak {(peak - before) / each / 1000:.0f} kB each, "
            f"at the end {(now - before) / each / 1000:.0f} kB each, "
            f"{left} connected after {arguments.wait:g} s, SIGTERM: {ended}"
        )
        for client in clients:
            client.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=COMMANDS, default="uvicorn")
    parser.add_argument("--handler", choices=PATHS, default="chat")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--wait", type=float, default=20)
    parser.add_argument("--send-timeout", default="")
    parser.add_argument("--option", action="append", help="for the server's command line")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
