"""The names of objects, and the form that a stream's id takes in them.

    <prefix>streams/<id>.stream               the head: which generation the id means
    <prefix>segments/<generation>/<n>         what was appended, the newest first in a listing
    <prefix>packed/<generation>/<random>      a finished stream in one object
    <prefix>due/<seconds>/stream/<id>         when to check whether a stream has expired
    <prefix>due/<seconds>/rest/<generation>   when the segments of a generation may be removed
    <prefix>probe/<random>                    removed right after the store was opened

Segment numbers run backwards in the keys. S3 lists keys in the order of their UTF-8 bytes, so
a listing of one key finds the newest segment, however many there are.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from streamstores.errors import CorruptData

MAX_PREFIX_BYTES = 160
"""With an id of 255 bytes, each escaped to three characters, a key stays below S3's 1024."""

_LAST_NUMBER = 9_999_999_999
_PART = 200  # MinIO on a file system takes at most 255 bytes between two slashes
_END = ".stream"  # no part of an escaped id contains a dot, so no head is another's folder
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_NAME = re.compile(r"([A-Za-z0-9_/-]|![0-9A-F]{2})+")
_ESCAPED = re.compile(r"!([0-9A-F]{2})")


class CalendarEntry(NamedTuple):
    """What to check from `seconds` on: a stream, or else the rest of a generation."""

    seconds: int
    stream_id: str | None
    generation: str | None


class ObjectKeys:
    """The keys below a prefix, which is empty or ends in a slash."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.heads = f"{prefix}streams/"
        self.segments = f"{prefix}segments/"
        self.packs = f"{prefix}packed/"
        self.calendar = f"{prefix}due/"

    def head(self, stream_id: str) -> str:
        return f"{self.heads}{escaped(stream_id)}{_END}"

    def is_head(self, key: str) -> bool:
        """Whether a key in the folder of heads has the form of a head's key."""
        name = key[len(self.heads) : -len(_END)]
        return key.endswith(_END) and _NAME.fullmatch(name) is not None

    def heads_of(self, id_prefix: str) -> str:
        """The common prefix of the heads of all ids with this prefix, and of no others."""
        return f"{self.heads}{escaped(id_prefix)}"

    def id_of(self, head_key: str) -> str:
        return unescaped(head_key[len(self.heads) : -len(_END)])

    def generation(self, generation: str) -> str:
        return f"{self.segments}{generation}/"

    def segment(self, generation: str, number: int) -> str:
        return f"{self.segments}{generation}/{_LAST_NUMBER - number:010}"

    def number_of(self, segment_key: str) -> int:
        return _LAST_NUMBER - int(segment_key.rpartition("/")[2])

    def packs_of(self, generation: str) -> str:
        return f"{self.packs}{generation}/"

    def pack(self, generation: str) -> str:
        return f"{self.packs}{generation}/{secrets.token_hex(8)}"

    def probe(self) -> str:
        return f"{self.prefix}probe/{secrets.token_hex(8)}"

    def stream_entry(self, seconds: int, stream_id: str) -> str:
        return f"{self.calendar}{seconds:012}/stream/{escaped(stream_id)}{_END}"

    def rest_entry(self, seconds: int, generation: str) -> str:
        return f"{self.calendar}{seconds:012}/rest/{generation}"

    def entry_of(self, key: str) -> CalendarEntry:
        """What a key of the calendar says; raises `CorruptData` for any other key."""
        seconds, _, rest = key[len(self.calendar) :].partition("/")
        kind, _, name = rest.partition("/")
        if seconds.isdigit() and kind == "stream" and name.endswith(_END):
            return CalendarEntry(int(seconds), unescaped(name[: -len(_END)]), None)
        if seconds.isdigit() and kind == "rest":
            return CalendarEntry(int(seconds), None, name)
        raise CorruptData(f"the object {key!r} was not written by a store")


def new_generation() -> str:
    return secrets.token_hex(16)


def escaped(text: str) -> str:
    """Letters, digits, `-` and `_` unchanged, every other byte as `!XX`, and a slash after
    each 200 characters. The escaped form of a prefix is a prefix of the escaped form."""
    name = _UNSAFE.sub(_escape, text.encode()).decode()
    return "/".join(name[start : start + _PART] for start in range(0, len(name), _PART))


def unescaped(name: str) -> str:
    """The inverse of `escaped`; raises `CorruptData` for a name that it cannot produce."""
    parts = _ESCAPED.split(name.replace("/", ""))
    parts[1::2] = [chr(int(code, 16)) for code in parts[1::2]]
    try:
        return "".join(parts).encode("latin-1").decode()
    except UnicodeError as exc:
        raise CorruptData(f"an object named {name!r} was not written by a store") from exc


def _escape(match: re.Match[bytes]) -> bytes:
    return b"!%02X" % match[0][0]
