"""RESP2, the wire format of Redis: commands as bytes, and replies from bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ServerRefuses

# The errors that the store tells apart; any other is a `ResponseError` with its whole text.
_ERRORS: dict[str, type[Exception]] = {
    "ASK": AskError,
    "LOADING": BusyLoadingError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}

_ONLY_BYTES = {bytes}
_INCOMPLETE = object()
_BULK = re.compile(rb"\$(\d{1,9})\r\n")  # a text, by far the commonest item, and its length


def encode_command(command: tuple[Any, ...]) -> bytes:
    """The command, made of bytes, texts and numbers, as it is sent."""
    if set(map(type, command)) != _ONLY_BYTES:
        command = tuple([_as_bytes(each) for each in command])
    # By one format for all arguments: a step for each would cost as much as an append's rules.
    count = len(command)
    sized: list[Any] = [0] * (2 * count)
    sized[::2] = map(len, command)
    sized[1::2] = command
    return b"*%d\r\n" % count + (b"$%d\r\n%b\r\n" * count) % tuple(sized)


def _as_bytes(argument: bytes | str | int) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


def error_of(text: str) -> Exception:
    """The exception of redis-py that stands for an error reply.

    Those that are a `ConnectionError` mean that the server refuses to look at the request.
    """
    code, _, rest = text.partition(" ")
    if code in _ERRORS:
        return _ERRORS[code](rest)
    if text == "ERR max number of clients reached":
        return ServerRefuses(text)
    return ResponseError(text)


class ReplyParser(Protocol):
    """Cuts the bytes of a connection into replies.

    `on_reply` gets each reply at the moment its last byte arrives: bytes, an int, a list of
    these, None, or an exception for an error reply. What `on_reply` raises leaves `feed`.
    """

    def __init__(self, on_reply: Callable[[Any], None]) -> None: ...

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `InvalidResponse` for bytes that are no reply."""


class HiredisParser:
    """A `ReplyParser` by hiredis, which is written in C."""

    def __init__(self, on_reply: Callable[[Any], None]) -> None:
        self._on_reply = on_reply
        self._reader: Any = import_module("hiredis").Reader(
            protocolError=InvalidResponse, replyError=error_of, notEnoughData=_INCOMPLETE
        )

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._next(data)) is not _INCOMPLETE:
            self._on_reply(reply)

    def _next(self, data: bytes) -> Any:
        try:
            return self._reader.gets()
        except InvalidResponse as exc:
            raise InvalidResponse(f"not a reply, near {data[:80]!r}: {exc}") from exc


class PythonParser:
    """A `ReplyParser` without hiredis."""

    def __init__(self, on_reply: Callable[[Any], None]) -> None:
        self._on_reply = on_reply
        self._chunks: list[bytes] = []
        self._missing = 1  # the fewest bytes that can complete the next item
        self._arrays: list[tuple[list[Any], int]] = []  # unfinished arrays, with their lengths

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._missing -= len(data)
        if self._missing > 0:  # joined only once, however many pieces a big reply has
            return
        if len(self._chunks) > 1:
            data = b"".join(self._chunks)
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Take all items that are whole, and keep the bytes that begin the next one."""
        position, size = 0, len(data)
        self._missing = 1
        while position < size:
            bulk = _BULK.match(data, position)
            if bulk is not None:
                start = bulk.end()
                end = start + int(bulk[1])
                if size < end + 2:
                    self._missing = end + 2 - size
                    break
                position = end + 2
                self._add(data[start:end])
            else:
                line_end = data.find(b"\r\n", position)
                if line_end < 0:
                    break
                self._take_line(data[position : position + 1], data[position + 1 : line_end])
                position = line_end + 2
        self._chunks = [data[position:]] if position < size else []

    def _take_line(self, kind: bytes, text: bytes) -> None:
        """Take an item that is one line: anything but a text, or the head of an array."""
        if kind == b"*" and text not in (b"0", b"-1"):
            self._arrays.append(([], int(text)))
        else:
            self._add(_value(kind, text))

    def _add(self, item: Any) -> None:
        """Put the item into its array, and hand over the reply that it completes."""
        while self._arrays:
            items, length = self._arrays[-1]
            items.append(item)
            if len(items) < length:
                return
            self._arrays.pop()
            item = items
        self._on_reply(item)


def _value(kind: bytes, text: bytes) -> Any:
    if kind == b":":
        return int(text)
    if kind == b"+":
        return text
    if kind == b"-":
        return error_of(text.decode(errors="replace"))
    if kind in (b"$", b"*") and text in (b"0", b"-1"):
        return [] if text == b"0" else None
    raise InvalidResponse(f"not a reply: {kind + text!r}")


FASTEST_PARSER: type[ReplyParser] = HiredisParser if find_spec("hiredis") else PythonParser
"""By whether hiredis is installed."""
