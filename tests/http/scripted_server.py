"""An HTTP server whose answers a test decides: the wire of the chat handler, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

GIVE_UP_SECONDS = 60.0
"""How long a test waits for what must come; long enough for a busy machine."""

REDIRECTS = {"redirect": "/moved", "loop": "/loop"}
"""Where the redirecting answers lead; /loop leads to itself."""


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def label(self) -> str:
        """The name of the request in tests/data/transitions.json."""
        mode = self.query.get("mode")
        return f"{self.method} {self.path}" + (f" mode={mode}" if mode else "")

    @property
    def stream_id(self) -> str:
        return self.body["id"] if self.method == "POST" else self.query["id"]


class Exchange:
    """A request, and the means to answer it."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def open(self, *events: bytes, ping: float = 15.0) -> None:
        """Answer as a chat handler that keeps the stream."""
        await self.begin(X_Stream_Id=self.request.stream_id, X_Stream_Ping=ping)
        await self.send(event("stream-id", self.request.stream_id), *events)

    async def open_unkept(self, *events: bytes) -> None:
        """Answer as a chat handler with `resumable=False`."""
        await self.begin(X_Stream_Ping=15.0)
        await self.send(*events)

    async def begin(self, **headers: str | float) -> None:
        """Answer with the headers of an event stream."""
        lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream; charset=utf-8"]
        lines += ["Transfer-Encoding: chunked", *_header_lines(headers)]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self._writer.drain()

    async def left(self) -> None:
        """Return when the client has closed the connection."""
        with suppress(ConnectionError):
            while await asyncio.wait_for(self._reader.read(65_536), GIVE_UP_SECONDS):
                pass

    async def send(self, *events: bytes) -> None:
        for each in events:
            self._writer.write(b"%x\r\n%b\r\n" % (len(each), each))
        await self._writer.drain()

    async def end(self) -> None:
        """End the body cleanly."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        self._writer.close()

    def cut(self) -> None:
        """End the connection in the middle; everything sent before still arrives."""
        self._writer.close()

    async def answer(
        self, status: int, body: dict[str, Any] | str, **headers: str | float
    ) -> None:
        """Answer with a page (a string) or a JSON object."""
        text = body if isinstance(body, str) else json.dumps(body)
        content_type = "text/html" if isinstance(body, str) else "application/json"
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text.encode())}"]
        lines += ["Connection: close", f"Content-Type: {content_type}"]
        lines += _header_lines(headers)
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + text).encode())
        await self._writer.drain()
        self._writer.close()

    async def refuse(self, status: int, code: str, **headers: str | float) -> None:
        """Answer with an error of the chat handler."""
        await self.answer(status, {"error": f"it is {code}", "code": code}, **headers)

    async def give(self, answer: int | str) -> None:
        """Give an answer of tests/data/answers.json."""
        if answer == "html":
            await self.answer(200, "<html>Please sign in</html>")
        elif answer in REDIRECTS:
            await self.answer(307, "", Location=REDIRECTS[str(answer)])
        else:
            await self.refuse(int(answer), f"code_{answer}")


class ScriptedServer:
    """A server whose requests wait until the test takes and answers them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._waiting: deque[Exchange] = deque()
        self._arrived = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._expected: str | None = None

    @property
    def endpoint(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/stream"

    async def next(self) -> Exchange:
        """The oldest request that waits for an answer; wait for one if there is none."""
        await asyncio.wait_for(self.asked(), GIVE_UP_SECONDS)
        return self._waiting.popleft()

    async def asked(self) -> None:
        """Return when a request waits for an answer."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()

    def cut_all(self) -> None:
        for writer in self._writers:
            writer.close()

    def forget(self) -> None:
        """Drop the waiting requests, which the client is about to leave, and take any."""
        self._waiting.clear()
        self._expected = None

    def expect(self, stream_id: str | None) -> None:
        """Drop the requests of other streams, those that wait and those that come: one that the
        client has left may still be on its way. None means any.
        """
        self._expected = stream_id
        self.requests = [each for each in self.requests if self._is_expected(each)]
        self._waiting = deque(each for each in self._waiting if self._is_expected(each.request))

    def _is_expected(self, request: Request) -> bool:
        return self._expected is None or self._expected == request.stream_id

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            request = await _read_request(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        exchange = Exchange(request, reader, writer)
        if request.path == REDIRECTS["loop"]:
            await exchange.give("loop")
            return
        if not self._is_expected(request):
            exchange.cut()
            return
        self.requests.append(request)
        self._waiting.append(exchange)
        self._arrived.set()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    size = int(headers.get("content-length", 0))
    body = json.loads(await reader.readexactly(size)) if size else {}
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    return Request(method, url.path, query, headers, body)


def _header_lines(headers: dict[str, str | float]) -> list[str]:
    return [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]


def event(name: str, data: str = "", offset: int | None = None) -> bytes:
    """One event as the handler writes it; its lines end with LF."""
    lines = [] if offset is None else [f"id: {offset}"]
    if name:
        lines.append(f"event: {name}")
    lines += [f"data: {line}" if line else "data:" for line in data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


DONE = event("done")
STOPPED = event("stopped") + DONE
PING = event("ping")
