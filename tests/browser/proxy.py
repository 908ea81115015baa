"""A TCP proxy on loopback that can break its connections, as a bad network does."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """Forwards to a port. `cut` resets every connection; `refusing` also resets new ones.

    `piece_bytes` sends the responses in pieces of that size, each in a packet of its own.
    """

    def __init__(self, port: int, *, piece_bytes: int = 65_536) -> None:
        self.upstream_port = port
        self.refusing = False
        self.connections = 0
        self._piece_bytes = piece_bytes
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.refusing = True
        self.cut()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            if not self.refusing:
                await self._forward(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.upstream_port
            )
            try:
                await asyncio.gather(
                    _pump(reader, server_writer, 65_536),
                    _pump(server_reader, writer, self._piece_bytes),
                )
            finally:
                server_writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece_bytes: int
) -> None:
    """Copy until one side has ended. Closing the other side then ends the other pump."""
    with suppress(ConnectionError):
        while data := await reader.read(piece_bytes):
            writer.write(data)
            await writer.drain()
    writer.close()
