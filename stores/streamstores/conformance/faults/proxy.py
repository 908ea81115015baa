"""A TCP proxy between a client and its server that can be cut, silenced, and secured by TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["BURST_BYTES", "Proxy"]

BURST_BYTES = 65_536
_CALL_SECONDS = 10.0
_CLOSE_SECONDS = 5.0

T = TypeVar("T")
P = TypeVar("P", bound="Proxy")


class Proxy:
    """A local port that leads to another one; a context manager.

    It runs on a thread of its own, so the client may be in any event loop, in none, or in
    another process. Its methods may be called from any thread but its own.
    """

    def __init__(
        self,
        target_port: int,
        *,
        target_host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.target_host = target_host
        """New connections lead there."""
        self.target_port = target_port
        """New connections lead there."""
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._replies = open_gate()
        self._requests = open_gate()
        self.port: int = 0
        """The port to connect to, on 127.0.0.1."""

    def __enter__(self: P) -> P:
        self._thread.start()
        server = asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self._server = self._run(server)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mute(self) -> None:
        """Hold back all replies from now on; requests still arrive."""
        self._loop.call_soon_threadsafe(self._replies.clear)

    def unmute(self) -> None:
        self._loop.call_soon_threadsafe(self._replies.set)

    def hold_requests(self) -> asyncio.Event:
        """Hold back what the present connections send; new ones are not held.

        Returns the gate for `release`. The server's end of a held connection stays open even
        if the client closes its own, like bytes that a slow network still delivers.
        """
        return self._run(self._hold())

    def release(self, gate: asyncio.Event) -> None:
        """Deliver what `hold_requests` held back."""
        self._loop.call_soon_threadsafe(gate.set)

    def cut(self) -> None:
        """Abort every connection; new ones are accepted."""
        self._run(self._abort())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _hold(self) -> asyncio.Event:
        held, self._requests = self._requests, open_gate()
        held.clear()
        return held

    async def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to the server; a client whose server refuses is cut."""
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self.target_host, self.target_port
            )
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        with suppress(asyncio.CancelledError):
            await self._carry((reader, writer), (far_reader, far_writer))
        self._writers -= pair

    async def _carry(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry the bytes between the client (near) and the server until both have ended."""
        requests = self._requests
        await asyncio.gather(
            _pump(near[0], far[1], requests), _pump(far[0], near[1], self._replies)
        )


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    with suppress(OSError):
        while data := await reader.read(BURST_BYTES):
            await gate.wait()
            writer.write(data)
            await writer.drain()
        await gate.wait()  # the end of the connection must not overtake held bytes
    writer.close()


def open_gate() -> asyncio.Event:
    """An event that is set, for bytes that are not held back."""
    gate = asyncio.Event()
    gate.set()
    return gate
