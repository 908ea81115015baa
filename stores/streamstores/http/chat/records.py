"""The records of a chat stream, and the server-sent events made of them. No I/O.

A piece of text is stored as one record of UTF-8. A named event is stored as one record
`FF name LF data FF`. UTF-8 never contains the byte FF, so text cannot look like an event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from streamstores._sse import encode_event
from streamstores.store import Record

__all__ = [
    "RESERVED_NAMES",
    "Event",
    "begins_inside",
    "encode",
    "sse_event",
    "sse_of",
    "text_of",
]

RESERVED_NAMES = frozenset({"stream-id", "ping", "stopped", "error", "done", "text"})
"""Names of the wire's own events."""

_MARK = b"\xff"
_EVENT_NAME = re.compile(rb"[^\r\n\0]+")
_RESERVED_NAMES = frozenset(name.encode() for name in RESERVED_NAMES)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Event:
    """A named event in a model's answer, such as `Event("usage", '{"outputTokens": 7}')`.

    `name` is not empty, has no CR, LF or NUL, and is not in `RESERVED_NAMES`. `data` is any
    text, but a carriage return in it arrives as a line feed, because SSE cannot carry it. An
    event is stored as one record, so it must fit into the store's `record_bytes`.

    Raises `TypeError` and `ValueError`.
    """

    name: str
    data: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.data, str):
            raise TypeError("the name and data of an Event must be str")
        # A surrogate is refused here and replaced in the data: to change a name would make
        # another event of it.
        if not self.name or _SURROGATE.search(self.name) or set(self.name) & {*"\r\n\0"}:
            raise ValueError(
                f"an event name has no CR, LF or NUL and is not empty: {self.name!r}"
            )
        if self.name in RESERVED_NAMES:
            raise ValueError(f"the event name {self.name!r} is reserved")


def encode(piece: str | Event, record_bytes: int) -> Iterable[bytes]:
    """The records for a piece of an answer. Empty text gives none, and long text several.

    Text is split between characters, and lone surrogates become U+FFFD. Raises `TypeError`
    for anything but `str` and `Event`, and `ValueError` for an event over `record_bytes`.
    """
    if isinstance(piece, str):
        data = _utf8(piece)
        return [data] if 0 < len(data) <= record_bytes else _split(data, record_bytes)
    if isinstance(piece, Event):
        record = b"%b%b\n%b%b" % (_MARK, piece.name.encode(), _utf8(piece.data), _MARK)
        if len(record) > record_bytes:
            raise ValueError(
                f"the event {piece.name!r} takes {len(record)} bytes, a record {record_bytes}"
            )
        return [record]
    message = f"a model yields str and Event, not {type(piece).__name__}"
    if isinstance(piece, (dict, list)):
        message += ": wrap it, as in Event(name, json.dumps(piece))"
    raise TypeError(message)


def text_of(records: Iterable[Record]) -> str:
    """The text in whole records, without the named events."""
    data = b"".join(data for _, data in records if data[:1] != _MARK)
    return data.decode(errors="replace")


def begins_inside(data: bytes) -> bool:
    """Whether `data`, the rest of a record, begins inside a character or an event.

    The rest of an event ends with its closing mark but does not begin with the opening mark,
    or it is only the closing mark.
    """
    is_inside_character = data[0] & 0b1100_0000 == 0b1000_0000
    is_inside_event = data.endswith(_MARK) and (len(data) == 1 or not data.startswith(_MARK))
    return is_inside_character or is_inside_event


def sse_event(name: str, data: str = "") -> bytes:
    """An event of the wire's own, which has no id."""
    return encode_event(_utf8(data), name=name.encode())


def sse_of(
    records: Iterable[Record], *, text_as_json: bool = False, with_ids: bool = True
) -> bytes:
    """The events for stored records, each with its record's end offset as id.

    With `text_as_json`, text with a carriage return becomes an event `text` with a JSON
    string. Otherwise CR LF and CR become LF.
    """
    return b"".join(
        [
            _event_of(data, offset + len(data) if with_ids else None, text_as_json)
            for offset, data in records
        ]
    )


def _event_of(data: bytes, event_id: int | None, text_as_json: bool) -> bytes:
    if data[:1] == _MARK:
        name, _, payload = data[1:-1].partition(b"\n")
        if _EVENT_NAME.fullmatch(name) and name not in _RESERVED_NAMES:
            return encode_event(payload, name=name, event_id=event_id)
        # Another writer of the store wrote it. As an event it could carry fields of its own,
        # such as an id, or be a `done` in the middle of the stream. So it is sent as text.
    if text_as_json and b"\r" in data:
        text = json.dumps(data.decode(errors="replace"), ensure_ascii=False)
        return encode_event(text.encode(), name=b"text", event_id=event_id)
    return encode_event(data, event_id=event_id)


def _utf8(text: str) -> bytes:
    # Tried as it is, because searching every token for surrogates would cost more than encoding
    # it.
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _split(data: bytes, size: int) -> Iterator[bytes]:
    start = 0
    while len(data) - start > size:
        end = start + size
        while data[end] & 0b1100_0000 == 0b1000_0000:
            end -= 1  # never between the bytes of a character
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]
