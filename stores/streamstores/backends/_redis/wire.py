"""The bytes of one connection: commands out, and each reply in the moment it has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse


class Wire(asyncio.Protocol):
    """What is read from and written to a connection that redis-py has opened, from now on.

    `on_reply` gets each reply as bytes, an int, a list of these, None, or an exception of
    redis-py's, which is an error that the server replied. It is called straight from the
    event loop; redis-py would need a task that reads, and so another turn of the loop for each
    reply. What `on_reply` raises ends the wire.
    """

    def __init__(
        self,
        connection: Connection,
        on_reply: Callable[[Any], None],
        on_writable: Callable[[], None] | None = None,
    ) -> None:
        self._on_reply = on_reply
        self._on_writable = on_writable
        opened: Any = connection  # redis-py shows neither its transport nor its errors
        self._as_error: Callable[[str], Exception] = opened._parser.parse_error
        self._transport = opened._writer.transport
        self._replaced = self._transport.get_protocol()
        self._chunks: list[bytes] = []
        self._missing = 1
        self.is_full = False
        """Whether the server is slow to take what was sent; `on_writable` is called when it
        has."""
        self.lost = asyncio.get_running_loop().create_future()
        """Fails once nothing more can come, with why."""
        self._transport.set_protocol(self)

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send the commands, of bytes, texts and numbers, as one write."""
        packed: list[bytes] = []
        for command in commands:
            packed.append(b"*%d\r\n" % len(command))
            for each in command:
                argument = each if isinstance(each, bytes) else str(each).encode()
                packed += (b"$%d\r\n" % len(argument), argument, b"\r\n")
        self._transport.write(b"".join(packed))

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._missing -= len(data)
        if self._missing > 0 or self.lost.done():
            return
        if len(self._chunks) > 1:
            data = b"".join(self._chunks)
        try:
            self._take(data)
        except Exception as exc:
            self._lose(exc)

    def _take(self, data: bytes) -> None:
        position = 0
        try:
            while position < len(data) and not self.lost.done():
                reply, position = self._parse(data, position)
                self._on_reply(reply)
            self._missing = 1
        except _Incomplete as exc:
            self._missing = exc.missing
        self._chunks = [data[position:]] if position < len(data) else []

    def _parse(self, data: bytes, start: int) -> tuple[Any, int]:
        """The reply at `start`, and where the next one begins."""
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            raise _Incomplete(1)
        kind, text, end = data[start : start + 1], data[start + 1 : line_end], line_end + 2
        if kind == b"$":
            return self._bulk(data, end, int(text))
        if kind == b"*":
            return self._array(data, end, int(text))
        if kind == b":":
            return int(text), end
        if kind == b"+":
            return text, end
        if kind == b"-":
            return self._as_error(text.decode(errors="replace")), end
        raise InvalidResponse(f"not a reply: {data[start:line_end]!r}")

    def _bulk(self, data: bytes, start: int, length: int) -> tuple[bytes | None, int]:
        if length < 0:
            return None, start
        end = start + length
        if len(data) < end + 2:
            raise _Incomplete(end + 2 - len(data))
        return data[start:end], end + 2

    def _array(self, data: bytes, end: int, length: int) -> tuple[list[Any] | None, int]:
        if length < 0:
            return None, end
        items = []
        for _ in range(length):
            item, end = self._parse(data, end)
            items.append(item)
        return items, end

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._on_writable is not None:
            self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._replaced.connection_lost(exc)  # its writer waits for that when it is closed
        self._lose(exc or ConnectionError("the connection was lost"))

    def _lose(self, exc: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(exc)
            self.lost.exception()  # seen, also where nobody waits any more


class _Incomplete(Exception):
    """The bytes end within a reply, of which at least `missing` more must come."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
