"""Content types, and what they mean for a stream's records and for the bodies of responses.

In JSON mode each message is one record, as the client wrote it. In other modes a body is one
record, or several if it is longer than a record may be. No I/O.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from json.decoder import JSONDecoder
from typing import NamedTuple, NoReturn

from streamstores._sse import encode_event
from streamstores.http._asgi.errors import HttpError
from streamstores.limits import Limits

__all__ = ["DEFAULT_TYPE", "Content", "chunks_of"]

DEFAULT_TYPE = "application/octet-stream"

_TYPE = re.compile(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+[ \t]*(;[\x20-\x7e\t]*)?", re.ASCII)
_MOST_TYPE_CHARS = 255
_SPACE = re.compile(r"[ \t\n\r]*")


class Content(NamedTuple):
    """A content type, parsed."""

    header: str
    """The text that the client gave when it created the stream."""
    mime: str
    """Without parameters and in lower case. Appends must match it."""
    is_json: bool
    is_text: bool
    """Whether its bytes go into server-sent events unencoded. True for JSON too."""

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(header: str | None) -> Content:
        """Parse a header, or None for the default type. Raises `HttpError` 400."""
        header = (header or DEFAULT_TYPE).strip()
        if len(header) > _MOST_TYPE_CHARS or not _TYPE.fullmatch(header):
            raise HttpError(400, "invalid_content_type", "not a content type")
        mime = header.partition(";")[0].strip().lower()
        is_json = mime == "application/json"
        return Content(header, mime, is_json, is_json or mime.startswith("text/"))

    def body_of(self, chunks: Iterable[bytes]) -> bytes:
        """The body of a response with these records."""
        return b"[%b]" % b",".join(chunks) if self.is_json else b"".join(chunks)

    def data_event(self, chunks: Iterable[bytes]) -> bytes:
        """The event that carries these records."""
        body = self.body_of(chunks)
        # Compact, because the public suite compares the raw text.
        return encode_event(
            body if self.is_text else b64encode(body), name=b"data", compact=True
        )

    def whole_bytes(self, data: bytes) -> int:
        """How many bytes of `data` an event may carry now.

        In text, a character whose last bytes have not arrived yet is held back, because
        clients decode each event by itself.
        """
        if not self.is_text:
            return len(data)
        for back in range(1, min(len(data), 3) + 1):
            byte = data[-back]
            if byte & 0b1100_0000 == 0b1000_0000:
                continue
            needed = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
        return len(data)


def chunks_of(content: Content, body: bytes, limits: Limits) -> tuple[bytes, ...]:
    """The records for a body. An empty body or an empty JSON array gives none.

    Raises `HttpError` `invalid_json`, and `too_large` for a message over the store's
    `record_bytes` or for more messages than one append takes.
    """
    if not body:
        return ()
    if not content.is_json:
        if len(body) <= limits.record_bytes:  # by far the most common case
            return (body,)
        return tuple(_split(body, limits.record_bytes))
    messages = _messages(body)
    if len(messages) > limits.append_records:
        raise HttpError(413, "too_large", f"over {limits.append_records} messages at once")
    if any(len(message) > limits.record_bytes for message in messages):
        raise HttpError(413, "too_large", f"a message is over {limits.record_bytes} bytes")
    return messages


def _split(body: bytes, size: int) -> Iterable[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def _messages(body: bytes) -> tuple[bytes, ...]:
    """The text of the JSON values in a body: the elements of an array, or the single value.

    The text is stored unchanged, because parsing and writing it again would round numbers
    that a double cannot hold.
    """
    try:
        # Strictly, because JSON in anything but UTF-8 is no JSON (RFC 8259, 8.1).
        text = body.decode()
        start = _after_space(text, 0)
        if text[start : start + 1] == "[":
            spans, end = _elements(text, start + 1)
        else:
            end = _scan(text, start)
            spans = [(start, end)]
    # RecursionError, because a few thousand brackets are well within the bound on the length.
    except (ValueError, RecursionError):
        raise HttpError(400, "invalid_json", "the body is not JSON") from None
    if _after_space(text, end) != len(text):
        raise HttpError(400, "invalid_json", "the body is more than one JSON value")
    return tuple(text[first:last].encode() for first, last in spans)


def _elements(text: str, position: int) -> tuple[list[tuple[int, int]], int]:
    """The spans of an array's elements, and the end of the array."""
    spans: list[tuple[int, int]] = []
    position = _after_space(text, position)
    if text[position : position + 1] == "]":
        return spans, position + 1
    while True:
        end = _scan(text, position)
        spans.append((position, end))
        position = _after_space(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            return spans, position + 1
        if mark != ",":
            raise ValueError("no comma between the elements")
        position = _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None, "the pattern also matches the empty string"
    return match.end()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are parsed as text: int() refuses long ones (since Python 3.11), and none is used.
_decoder = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def _scan(text: str, position: int) -> int:
    """The end of the value that begins at `position`."""
    return _decoder.raw_decode(text, position)[1]
