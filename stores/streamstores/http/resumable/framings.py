"""How the pieces of a source become records, and how records are sent: one way for each kind of
media type. No I/O.

A record is the unit at which a client may resume. So each record holds what its media type
treats as a unit: one server-sent event, one line, or a chunk of bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

from streamstores._sse import ServerSentEvent, encode_event
from streamstores.store import Record

__all__ = ["EVENT_STREAM", "EventIds", "Framing", "find_event_id", "framing_of"]

EVENT_STREAM = "text/event-stream"
_LINES = frozenset({"application/x-ndjson", "application/jsonl", "application/json-seq"})

EventIds = str
"""`"offsets"`: each event is sent with its end offset as `id:`. `"own"`: the source's events
bring their own ids, or have none."""


class Framing(Protocol):
    """One way to store and to send. Each stream has a framing of its own, which may keep the
    part of a unit that has not ended yet."""

    def records_of(self, piece: Any) -> Iterator[bytes]:
        """The records that a piece completes. Raises `TypeError` and `ValueError`."""
        ...

    def rest(self) -> bytes:
        """What the source left without completing it: the last record, or nothing."""
        ...

    def body_of(self, records: Iterable[Record]) -> bytes:
        """The bytes to send for stored records."""
        ...


def framing_of(media_type: str, event_ids: EventIds, record_bytes: int) -> Framing:
    """A new framing for one stream. Records are at most `record_bytes` long."""
    kind = media_type.partition(";")[0].strip().lower()
    if kind == EVENT_STREAM:
        return _Events(with_offsets=event_ids == "offsets", record_bytes=record_bytes)
    if kind in _LINES:
        return _Lines(record_bytes)
    return _Chunks(record_bytes)


# An empty line ends an event. A CR may be the first half of a CRLF, so it needs a successor.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))+")
_ID_FIELD = re.compile(rb"(?:^|[\r\n])id(?::[ ]?([^\r\n]*))?(?=[\r\n])")


class _Events:
    """Server-sent events, one to a record.

    A source may yield text that is formatted already, cut anywhere; objects, whose JSON becomes
    the data of an event; or `ServerSentEvent`.
    """

    def __init__(self, *, with_offsets: bool, record_bytes: int) -> None:
        self._with_offsets = with_offsets
        self._record_bytes = record_bytes
        self._open = bytearray()  # an event whose end has not come
        self._searched = 0  # of it, the bytes in which there is no end

    def records_of(self, piece: Any) -> Iterator[bytes]:
        if isinstance(piece, ServerSentEvent):
            yield from self._complete(_encoded(piece))
        elif isinstance(piece, (str, bytes, bytearray, memoryview)):
            yield from self._cut(_bytes_of(piece))
        elif callable(getattr(piece, "encode", None)):  # the event of another library
            yield from self._cut(_bytes_of(piece.encode()))
        else:
            yield from self._complete(encode_event(_json_of(piece)))

    def rest(self) -> bytes:
        text = bytes(self._open).strip(b"\r\n")
        self._open.clear()
        return self._checked(text + b"\n\n") if text else b""

    def body_of(self, records: Iterable[Record]) -> bytes:
        if not self._with_offsets:
            return b"".join([data for _, data in records])
        return b"".join([b"id: %d\n%b" % (at + len(data), data) for at, data in records])

    def _complete(self, event: bytes) -> Iterator[bytes]:
        # The event would end up inside the half-formatted one, and both would be lost to every
        # client.
        if self._open:
            raise ValueError("an event was yielded in the middle of formatted text")
        yield self._checked(event)

    def _cut(self, text: bytes) -> Iterator[bytes]:
        """The events that end in the text so far. The rest is kept for the next piece."""
        self._open += text
        start = 0
        for end in _EVENT_END.finditer(self._open, self._searched):
            event = bytes(self._open[start : end.start()]).lstrip(b"\r\n")
            start = end.end()
            if event:
                yield self._checked(event + b"\n\n")
        del self._open[:start]
        self._searched = max(len(self._open) - 3, 0)  # an end may be cut in its middle
        # Checked before the event has ended, or a source that never ends an event would fill
        # the memory of the process.
        self._check_size(self._open)

    def _checked(self, event: bytes) -> bytes:
        self._check_size(event)
        # An event with two `id` fields has the last of them as its id (HTML Standard, 9.2.6).
        # The client would resume with an id that this stream has not given out.
        if self._with_offsets and _ID_FIELD.search(event):
            raise ValueError(
                "the source gives its events ids of their own: pass event_ids='own'"
            )
        return event

    def _check_size(self, event: bytes | bytearray) -> None:
        if len(event) > self._record_bytes:
            raise ValueError(f"an event is over the {self._record_bytes} bytes of a record")


class _Lines:
    """Lines, such as newline-delimited JSON, one to a record."""

    def __init__(self, record_bytes: int) -> None:
        self._record_bytes = record_bytes
        self._open = b""

    def records_of(self, piece: Any) -> Iterator[bytes]:
        if isinstance(piece, (str, bytes, bytearray, memoryview)):
            *lines, self._open = (self._open + _bytes_of(piece)).split(b"\n")
        elif self._open:
            raise ValueError("an object was yielded in the middle of a line")
        else:
            lines = [_json_of(piece)]
        for line in lines:
            yield self._checked(line + b"\n")
        self._checked(self._open)

    def rest(self) -> bytes:
        line, self._open = self._open, b""
        return line

    def body_of(self, records: Iterable[Record]) -> bytes:
        return b"".join([data for _, data in records])

    def _checked(self, line: bytes) -> bytes:
        if len(line) > self._record_bytes:
            raise ValueError(f"a line is over the {self._record_bytes} bytes of a record")
        return line


class _Chunks:
    """Bytes, in the chunks in which they are yielded; text as UTF-8."""

    def __init__(self, record_bytes: int) -> None:
        self._record_bytes = record_bytes

    def records_of(self, piece: Any) -> Iterator[bytes]:
        data = _bytes_of(piece)
        for start in range(0, len(data), self._record_bytes):
            yield data[start : start + self._record_bytes]

    def rest(self) -> bytes:
        return b""

    def body_of(self, records: Iterable[Record]) -> bytes:
        return b"".join([data for _, data in records])


def find_event_id(records: Iterable[Record], event_id: str) -> int | None:
    """The offset after the event with this `id:`; None if none of the records has it."""
    wanted = event_id.encode()
    for record in records:
        # A field `id` without a value is an id too: the empty one, which resets
        # `Last-Event-ID`.
        if any((found or b"") == wanted for found in _ID_FIELD.findall(record.data)):
            return record.end
    return None


def _encoded(event: ServerSentEvent) -> bytes:
    name = event.name.encode()
    if b"\n" in name or b"\r" in name:
        raise ValueError(f"not a name for an event: {event.name!r}")
    encoded = encode_event(event.data.encode(), name=name)
    if event.id is None:
        return encoded
    # A line break would begin another field, and clients ignore an id with a NUL (HTML
    # Standard, 9.2.6), so they would resume at an earlier event.
    if set(event.id) & {*"\r\n\0"}:
        raise ValueError(f"not an id for an event: {event.id!r}")
    return b"id: %b\n%b" % (event.id.encode(), encoded)


def _bytes_of(piece: Any) -> bytes:
    if isinstance(piece, str):
        # A model's text may hold half of a surrogate pair. A question mark is better than a
        # stream that ends in error.
        return piece.encode(errors="replace")
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", piece))
    raise TypeError(f"a source yields bytes or str here, not {type(piece).__name__}")


def _json_of(piece: Any) -> bytes:
    """The JSON of an object, or of a pydantic model. Raises `TypeError` and `ValueError`."""
    dump = getattr(piece, "model_dump_json", None)
    if dump is not None:
        return _bytes_of(dump())
    if not isinstance(piece, (Mapping, list, tuple)):
        raise TypeError(
            f"a source yields bytes, str, JSON objects or events, not {type(piece).__name__}"
        )
    return json.dumps(piece, ensure_ascii=False, allow_nan=False).encode(errors="replace")
