"""HTTP servers, spoken to over bare sockets so that the client costs little."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

from benchmarks.subjects import Subject, Take
from benchmarks.trial import ROOT, Pace, stamp, stamps

_STAMP = re.compile(rb"\d{20}")
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_REFERENCE = Path(__file__).parents[1] / "reference"


class WebServer(Subject):
    """A child process that takes appends by POST and sends a stream as SSE."""

    command: tuple[str, ...]

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self.command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def aclose(self) -> None:
        self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Of the server so far, in steps of a hundredth."""
        return cpu_seconds(self.pid)

    async def begin(self, pace: Pace) -> None:
        """Begin the one stream, with one record."""
        self._connection = await self._connect()
        await self._ask(self._connection, "PUT", b"")
        await self._ask(self._connection, "POST", stamp())

    async def go(self, pace: Pace) -> None:
        """Append the others at their pace."""
        async for each in stamps(pace.length, pace.rate):
            await self._ask(self._connection, "POST", each)

    async def follow(self, stream_id: str, take: Take) -> None:
        """Take every stamp in the body, keeping the start of one that is cut for later."""
        reader, writer = await self._connect()
        try:
            writer.write(request_bytes("GET", self.address(stream_id), b""))
            rest = b""
            while data := await reader.read(65_536):
                rest += data
                end = 0
                for match in _STAMP.finditer(rest):
                    take(match[0])
                    end = match.end()
                rest = rest[max(end, len(rest) - 19) :]
        finally:
            writer.transport.abort()

    def address(self, stream_id: str) -> str:
        """The path at which the stream is read live from its start."""
        return f"/{stream_id}?offset=-1&live=sse"

    async def _connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def post_from_many(self, bodies: list[bytes], connections: int) -> float:
        """POST all bodies to the same stream over several connections; requests per second."""
        opened = [await self._connect() for _ in range(connections)]
        await self._ask(opened[0], "PUT", b"")
        left = iter(bodies)

        async def post(connection: Connection) -> None:
            for body in left:
                await self._ask(connection, "POST", body)

        started = time.perf_counter()
        await asyncio.gather(*map(post, opened))
        rate = len(bodies) / (time.perf_counter() - started)
        for _, writer in opened:
            writer.transport.abort()
        return rate

    async def _ask(self, connection: Connection, method: str, body: bytes) -> None:
        reader, writer = connection
        writer.write(request_bytes(method, "/s", body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 2"):
            raise RuntimeError(head.decode())
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            await reader.readexactly(int(length[1]))
        elif b"chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text(encoding="ascii").split()]


def request_bytes(method: str, path: str, body: bytes, kind: str = "text/plain") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _python(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "benchmarks.web_servers", name)


class Bare(WebServer):
    command = _python("bare")


class Rakaia(WebServer):
    command = _python("rakaia")
    needs = ("rakaia",)


class NodeReference(WebServer):
    command = ("node", str(_REFERENCE / "serve.mjs"))

    @classmethod
    def check_installed(cls) -> None:
        if not (_REFERENCE / "node_modules").is_dir():
            raise ImportError("run npm install --prefix benchmarks/reference")


class DurableStreams(WebServer):
    """Our handler of the protocol that the reference speaks."""

    command = _python("ours")


class ChatHandler(DurableStreams):
    """Our chat handler, whose model is what appends, in the server. It takes no appends by
    POST: those are for the handler beside it."""

    async def begin(self, pace: Pace) -> None:
        self._connection = await self._post(json.dumps([pace.length, pace.rate]), "s")
        await self._connection[0].readuntil(b"id: 20\n")

    async def go(self, pace: Pace) -> None:
        _, writer = await self._post("go", "go")
        await asyncio.sleep(pace.length / pace.rate)
        writer.transport.abort()

    def address(self, stream_id: str) -> str:
        return f"/stream/resume?id={stream_id}&mode=follow"

    async def _post(self, prompt: str, stream_id: str) -> Connection:
        body = json.dumps({"prompt": prompt, "id": stream_id}).encode()
        reader, writer = await self._connect()
        writer.write(request_bytes("POST", "/stream", body, "application/json"))
        return reader, writer
