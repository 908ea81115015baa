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
        self._arrays: list[tuple[list[Any], int]] = []  # begun, with their lengths
        self._is_full = False
        self.lost = asyncio.get_running_loop().create_future()
        """Fails once nothing more can come, with why."""
        self._transport.set_protocol(self)

    @property
    def is_writable(self) -> bool:
        """False while the server is slow to take what was sent, until `on_writable`, and for
        ever once the connection ends."""
        return not (self._is_full or self._transport.is_closing() or self.lost.done())

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
        position, self._missing = 0, 1
        while position < len(data) and not self.lost.done():
            end = self._take_item(data, position)
            if end is None:
                break
            position = end
        self._chunks = [data[position:]] if position < len(data) else []

    def _take_item(self, data: bytes, start: int) -> int | None:
        """Take a reply, or an item of one, and say where the next one begins; None where its
        bytes are not all there, of which at least `_missing` more must come."""
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind, text, end = data[start : start + 1], data[start + 1 : line_end], line_end + 2
        if kind == b"$" and text != b"-1":
            start, end = end, end + int(text)
            if len(data) < end + 2:
                self._missing = end + 2 - len(data)
                return None
            self._add(data[start:end])
            return end + 2
        if kind == b"*" and text not in (b"0", b"-1"):
            self._arrays.append(([], int(text)))
        else:
            self._add(self._value(kind, text))
        return end

    def _value(self, kind: bytes, text: bytes) -> Any:
        if kind == b":":
            return int(text)
        if kind == b"+":
            return text
        if kind == b"-":
            return self._as_error(text.decode(errors="replace"))
        if kind in (b"$", b"*"):
            return [] if text == b"0" else None
        raise InvalidResponse(f"not a reply: {kind + text!r}")

    def _add(self, item: Any) -> None:
        """Put the item into its array, and hand over what is whole with it."""
        while self._arrays:
            items, length = self._arrays[-1]
            items.append(item)
            if len(items) < length:
                return
            self._arrays.pop()
            item = items
        self._on_reply(item)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._on_writable is not None:
            self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._replaced.connection_lost(exc)  # its writer waits for that when it is closed
        self._lose(exc or ConnectionError("the connection was lost"))

    def _lose(self, exc: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(exc)
            self.lost.exception()  # seen, also where nobody waits any more
