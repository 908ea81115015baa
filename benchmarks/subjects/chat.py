"""Chat endpoints, asked over bare sockets: a prompt for each client, and its answer as SSE."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.subjects.web import WebServer, children, cpu_seconds, request_bytes

_STAMP = re.compile(rb"\d{20}")


class ChatClient(asyncio.Protocol):
    """One client: it sends a prompt and notes when each token of the answer arrives."""

    def __init__(self, request: bytes) -> None:
        self.first_after: float | None = None
        """Seconds from the request to the first token."""
        self.latencies: list[float] = []
        """Seconds from the stamp of each later token to its arrival."""
        self._request = request
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._sent_at = time.monotonic()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for match in _STAMP.finditer(data):
            end = match.end()
            if self.first_after is None:
                self.first_after = now / 1e9 - self._sent_at
            else:
                self.latencies.append((now - int(match[0])) / 1e9)
        self._rest = data[max(end, len(data) - 19) :]


class ChatServer(WebServer):
    name: str
    server = "uvicorn"
    workers = 1

    async def open(self) -> None:
        options = (self.name, self.url, self.server, str(self.workers))
        self.command = (sys.executable, "-m", "benchmarks.chat_servers", *options)
        await super().open()

    async def aclose(self) -> None:
        for child in children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        await super().aclose()

    @property
    def cpu_seconds(self) -> float:
        """Of all workers so far."""
        return super().cpu_seconds + sum(map(cpu_seconds, children(self.pid)))

    async def ask(self, stream_id: str, count: int, rate: float, start: float) -> ChatClient:
        """A client of an answer of one token at once, and of `count` more from `start` on."""
        body = {"prompt": json.dumps([count, rate, start]), "id": stream_id}
        request = request_bytes(
            "POST", "/stream", json.dumps(body).encode(), "application/json"
        )
        loop = asyncio.get_running_loop()
        make = partial(ChatClient, request)
        _, client = await loop.create_connection(make, "127.0.0.1", self.port)
        return client

    async def warm_up(self) -> None:
        """One whole chat, so that what is loaded and connected at first use is not counted."""
        client = await self.ask("warm-up", 1, 50, 0)
        while not client.latencies:  # noqa: ASYNC110 - the counters are all there is to see
            await asyncio.sleep(0.02)
        client.transport.abort()

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match, "Linux says how much memory of a process is resident"
        return int(match[1]) * 1024


class Plain(ChatServer):
    """Starlette's `StreamingResponse`, which keeps nothing: what a chat costs without us."""

    name = "plain"


class BareASGI(ChatServer):
    """An ASGI application without a framework: what of a chat's cost is the server's."""

    name = "bare"


class Ours(ChatServer):
    name = "ours"


class OursInTwoWorkers(Ours):
    workers = 2


class OursInFourWorkers(Ours):
    workers = 4


class OursOnGranian(Ours):
    server = "granian"
    needs = ("granian",)


class OursOnHypercorn(Ours):
    server = "hypercorn"
    needs = ("hypercorn", "uvloop")


class AssistantStream(ChatServer):
    name = "assistant-stream"
    needs = ("assistant_stream",)


class ResumableSSE(ChatServer):
    name = "resumable-sse"
    needs = ("resumable_sse",)
