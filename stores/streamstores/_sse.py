"""Server-sent events, to bytes and from bytes. No I/O, and no third-party package.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["EventParser", "ServerSentEvent", "encode_event"]


def encode_event(
    data: bytes, *, name: bytes = b"", event_id: int | None = None, compact: bool = False
) -> bytes:
    """One event. `name` has no line end.

    CR LF and CR in `data` arrive as LF, because a line of the format ends at all three. A
    parser drops one space after `data:`. With `compact` that space is written only before a
    line that begins with a space, and would lose it otherwise.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    fields = b"" if event_id is None else b"id: %d\n" % event_id
    if name:
        fields = b"%bevent: %b\n" % (fields, name)
    if not compact:
        return b"%bdata: %b\n\n" % (fields, data.replace(b"\n", b"\ndata: "))
    lines = data.replace(b"\n", b"\ndata:").replace(b"\ndata: ", b"\ndata:  ")
    return b"%bdata:%b%b\n\n" % (fields, b" " if data[:1] == b" " else b"", lines)


class ServerSentEvent(NamedTuple):
    """One event; `name` is empty if the event has none."""

    name: str
    data: str
    id: str | None
    """The event's own `id:` field, not that of the event before; None without one."""


_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Parses `text/event-stream`, cut into chunks anywhere, as the HTML standard says.

    It works on bytes, because only CR, LF and CRLF end a line, while `str.splitlines` would
    also split at U+2028 and others. An event whose empty line never comes is dropped.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # the start of a line whose end has not come
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        head, *lines = _LINE_END.split(chunk)
        self._rest.append(head)
        if not lines:
            return []
        complete = [b"".join(self._rest), *lines[:-1]]
        self._rest = [lines[-1]]
        return [event for line in complete if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        """Take a line as browsers do (HTML Standard, 9.2.6); returns the event that it ends, or
        None."""
        if self._first:
            # A byte order mark is no part of the first field's name.
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        if not line:
            return self._dispatch()
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value
        elif name == b"id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = None
        if self._data:
            event = ServerSentEvent(self._name, "\n".join(self._data), self._id)
        self._name, self._data, self._id = "", [], None
        return event
