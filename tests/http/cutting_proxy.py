"""A TCP proxy that loses connections: after so many bytes, on command, or before any answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards to `url`. Each connection is aborted when its answers exceed `answer_bytes`;
    None never does."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self.answer_bytes: int | None = None
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Abort every connection: both ends see a reset."""
        for writer in self._writers:
            writer.transport.abort()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, upstream_writer}
        asking = asyncio.create_task(self._forward(reader, upstream_writer, None))
        await self._forward(upstream_reader, writer, self.answer_bytes)
        asking.cancel()
        for each in (writer, upstream_writer):
            each.transport.abort()
            self._writers.discard(each)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data[:left])
                await writer.drain()
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        break


@asynccontextmanager
async def cutting_proxy(url: str) -> AsyncIterator[tuple[CuttingProxy, str]]:
    """The proxy, and the URL by which `url` is reached through it."""
    proxy = CuttingProxy(url)
    server = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, f"http://127.0.0.1:{port}"
    finally:
        server.close()
        proxy.cut()
        await server.wait_closed()
