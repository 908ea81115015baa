"""A network between a store and its server that can be slow, silent or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Forwards connections to the server of `url`, through `proxy.url`.

    A silent connection takes bytes and delivers none, and neither end hears that the other one
    has closed it.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._gates: set[asyncio.Event] = set()
        self._is_holding = False
        self._silencing: bytes | None = None
        self._replacement: tuple[bytes, bytes] | None = None
        self.held = 0
        """How many connections have been made while the proxy held new ones."""
        self.silenced = 0
        """How many connections have sent what `silence_at` waits for."""
        self.url = ""

    def hold(self) -> None:
        """From now on new connections are silent."""
        self._is_holding = True

    def silence(self) -> None:
        """All connections fall silent; new ones work."""
        for gate in self._gates:
            gate.clear()

    def silence_at(self, statement: bytes) -> None:
        """The first connection that sends this statement falls silent before it arrives."""
        self._silencing = statement

    def replace(self, statement: bytes, other: bytes) -> None:
        """Put another statement of the same length in the place of this one."""
        assert len(statement) == len(other)
        self._replacement = (statement, other)

    def release(self) -> None:
        """Deliver everything, including the bytes held back so far."""
        self._is_holding = False
        for gate in self._gates:
            gate.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = asyncio.Event()
        self._gates.add(gate)
        self._writers.add(writer)
        self._clients.add(writer)
        if self._is_holding:
            self.held += 1
        else:
            gate.set()
        with suppress(OSError):
            there, back = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
            self._writers.add(back)
            await asyncio.gather(
                self._forward(reader, back, gate, self._tampered),
                self._forward(there, writer, gate, lambda data, gate: data),
            )

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        tamper: Callable[[bytes, asyncio.Event], bytes],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                data = tamper(data, gate)
                await gate.wait()
                writer.write(data)
                await writer.drain()
        await gate.wait()
        writer.transport.abort()

    def _tampered(self, data: bytes, gate: asyncio.Event) -> bytes:
        if self._silencing is not None and self._silencing in data:
            self._silencing = None
            self.silenced += 1
            gate.clear()
        return data if self._replacement is None else data.replace(*self._replacement)

    def cut_clients(self) -> None:
        """Break the connections of the clients; the server notices only at `release`."""
        self.silence()
        for writer in self._clients:
            writer.transport.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(url)
    tasks: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    proxy.url = parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
    try:
        yield proxy
    finally:
        server.close()
        proxy.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
