"""Clients that take nothing: they are dropped, hold little, and do not keep a server from
ending. `python -m tests.faults.frozen_readers` measures the same with hundreds of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamstores import InvalidRequest, MemoryStreamStore, StreamStore
from streamstores.http import (
    ResumableStreams,
    StreamHandler,
    StreamRequest,
    create_durable_streams_app,
    create_stream_handler,
)
from streamstores.http._asgi.connections import Connection, unsent_bytes
from streamstores.http.monitor import create_monitor
from tests.faults.frozen_readers import COMMANDS, connected_ports, until_ready
from tests.http.serving import serving
from tests.services import free_port

MEGABYTE = 1_048_576
MANY = 12 * MEGABYTE
"""More than the buffers of two kernels take (4 MB to send and 4 MB received, at most)."""


async def endless(request: StreamRequest) -> AsyncIterator[str]:
    for _ in range(MANY // 65_536):
        yield "x" * 65_536


def chat(store: StreamStore, **options: Any) -> StreamHandler:
    return create_stream_handler(endless, store, **options)


def direct(store: StreamStore, **options: Any) -> StreamHandler:
    return create_stream_handler(endless, resumable=False, **options)


def durable(store: StreamStore, **options: Any) -> StreamHandler:
    return create_durable_streams_app(store, **options)


def monitor(store: StreamStore, **options: Any) -> StreamHandler:
    options = {"authorize": lambda request: True, "interval": 0.01, **options}
    return create_monitor(store, max_streams=5000, **options)


class resumable:  # noqa: N801  # used as the functions above are
    """An endpoint of an application's own, on `ResumableStreams`."""

    def __init__(self, store: StreamStore, **options: Any) -> None:
        self.streams = ResumableStreams(store, **options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self.streams.replay("long", offset=0)
        await response(scope, receive, send)

    async def aclose(self) -> None:
        await self.streams.aclose()

    async def __aenter__(self) -> resumable:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


START = b'POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"prompt":"hi"}'
REQUESTS = {
    "chat": (chat, b"GET /stream/resume?id=long&mode=follow HTTP/1.1\r\nHost: x\r\n\r\n"),
    "chat start": (chat, START),
    "direct": (direct, START),
    "durable": (durable, b"GET /long?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n"),
    "durable catch-up": (durable, b"GET /long?offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n" * 20),
    "resumable": (resumable, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "monitor": (monitor, b"GET /events?limit=5000 HTTP/1.1\r\nHost: x\r\n\r\n"),
}


@pytest.fixture
async def store() -> AsyncIterator[StreamStore]:
    async with MemoryStreamStore() as store:
        await store.create("long", attributes={"content-type": "text/plain"})
        for _ in range(MANY // MEGABYTE):
            await store.append("long", *[b"x" * 65_536] * 16)
        for number in range(2000):
            await store.create(f"short/{number}")
        yield store


async def ask(url: str, request: bytes) -> socket.socket:
    """A connection that sends a request and then does not read."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (host, int(port)))
    await loop.sock_sendall(connection, request)
    return connection


def was_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_that_takes_nothing_loses_its_connection(
    store: StreamStore, name: str
) -> None:
    create, request = REQUESTS[name]
    async with create(store, send_timeout=0.3) as handler:
        async with serving(handler, lifespan="off") as url:
            with await ask(url, request) as connection:
                while not was_reset(connection):
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_handler_that_closes_drops_such_clients_soon(
    store: StreamStore, name: str
) -> None:
    create, request = REQUESTS[name]
    async with create(store, send_timeout=3600) as handler:
        async with serving(handler, lifespan="off") as url:
            with await ask(url, request) as connection:
                await until_full(connection)
                await handler.aclose()
                while not was_reset(connection):
                    await asyncio.sleep(0.05)


async def until_full(connection: socket.socket) -> None:
    """Wait until the server's side of the connection has something that it cannot send."""
    server_side = Connection(connection.getsockname(), connection.getpeername())
    while (descriptor := server_side.find()) is None or not unsent_bytes(descriptor):
        await asyncio.sleep(0.05)
    before = 0
    while before != (now := unsent_bytes(descriptor)):
        before = now
        await asyncio.sleep(0.5)


@pytest.mark.long
async def test_a_client_that_reads_again_in_time_gets_every_byte(store: StreamStore) -> None:
    async with chat(store, send_timeout=60) as handler:
        async with serving(handler, lifespan="off") as url:
            with await ask(url, REQUESTS["chat"][1]) as connection:
                await until_full(connection)
                await asyncio.sleep(1.5)  # so long that the reader counts as slow
                await store.mark_done("long")
                loop = asyncio.get_running_loop()
                body = b""
                while not body.endswith(b"0\r\n\r\n"):
                    body += await loop.sock_recv(connection, MEGABYTE)
    assert body.count(b"x") >= MANY
    events = [line for line in body.split(b"\n") if line.startswith(b"id: ")]
    assert len(events) == MANY // 65_536
    assert b"event: done" in body


@pytest.mark.parametrize("seconds", [0, -1])
@pytest.mark.parametrize("create", [chat, direct, durable, resumable, monitor])
async def test_a_timeout_that_is_not_above_zero_is_refused(
    store: StreamStore, create: Any, seconds: float
) -> None:
    with pytest.raises(InvalidRequest, match="send_timeout"):
        create(store, send_timeout=seconds)


@pytest.mark.parametrize("server", COMMANDS)
@pytest.mark.parametrize("path", ["/chat/stream/resume?id=long&mode=follow", "/durable/long"])
async def test_frozen_clients_do_not_keep_a_server_from_ending(server: str, path: str) -> None:
    """On uvicorn always, and on the others if they are installed."""
    pytest.importorskip(server)
    port = free_port()
    command = [part.format(port=port) for part in COMMANDS[server]]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, "tests.faults.frozen_readers:app"),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SEND_TIMEOUT": "3600"},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await until_ready(port)
        live = "" if "chat" in path else "?offset=-1&live=sse"
        request = f"GET {path}{live} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        clients = [await ask(f"http://127.0.0.1:{port}", request) for _ in range(10)]
        while len(connected_ports(port, full=True)) < len(clients):
            await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
        for client in clients:
            client.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
