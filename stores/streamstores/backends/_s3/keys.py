"""The names of objects, and how a stream's id becomes part of one.

    <prefix>streams/<id>.stream           the head: which generation the id means
    <prefix>segments/<generation>/<n>     what was appended, newest first in a listing
    <prefix>packed/<generation>/<random>  a finished stream in one object
    <prefix>due/<seconds>/stream/<id>     when to look whether a stream has expired
    <prefix>due/<seconds>/rest/<generation>   when its segments may be removed
    <prefix>probe/<random>                gone a moment after the store was opened

Numbers of segments run backwards in the keys, so that a listing of one key, which S3 gives
in the order of UTF-8, is the newest segment, however many there are.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from streamstores.errors import CorruptData

MAX_PREFIX_BYTES = 160
"""With an id of 255 bytes, three characters each, a key stays below S3's 1024."""

_LAST_NUMBER = 9_999_999_999
_PART = 200  # MinIO on a file system takes at most 255 bytes between two slashes
_END = ".stream"  # no part of an id ends so: no head is the folder of another
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_NAME = re.compile(r"([A-Za-z0-9_/-]|![0-9A-F]{2})+")
_ESCAPED = re.compile(r"!([0-9A-F]{2})")


class Due(NamedTuple):
    """An entry of the calendar: the stream, or the generation, to look at from `seconds`."""

    seconds: int
    stream_id: str | None
    generation: str | None


class Keys:
    """The keys below one prefix, which is empty or ends in a slash."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.heads = f"{prefix}streams/"
        self.segments = f"{prefix}segments/"
        self.packs = f"{prefix}packed/"
        self.calendar = f"{prefix}due/"

    def head(self, stream_id: str) -> str:
        return f"{self.heads}{escaped(stream_id)}{_END}"

    def is_head(self, key: str) -> bool:
        """Whether a key in the folder of heads is one, and not somebody else's."""
        name = key[len(self.heads) : -len(_END)]
        return key.endswith(_END) and _NAME.fullmatch(name) is not None

    def heads_of(self, id_prefix: str) -> str:
        """What the keys of all heads of ids with this prefix begin with, and no other."""
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

    def due_stream(self, seconds: int, stream_id: str) -> str:
        return f"{self.calendar}{seconds:012}/stream/{escaped(stream_id)}{_END}"

    def due_rest(self, seconds: int, generation: str) -> str:
        return f"{self.calendar}{seconds:012}/rest/{generation}"

    def due_of(self, key: str) -> Due:
        """What an entry of the calendar says; raises `CorruptData` for somebody else's key."""
        seconds, _, rest = key[len(self.calendar) :].partition("/")
        kind, _, name = rest.partition("/")
        if seconds.isdigit() and kind == "stream" and name.endswith(_END):
            return Due(int(seconds), unescaped(name[: -len(_END)]), None)
        if seconds.isdigit() and kind == "rest":
            return Due(int(seconds), None, name)
        raise CorruptData(f"no store wrote the object {key!r}")


def new_generation() -> str:
    return secrets.token_hex(16)


def escaped(text: str) -> str:
    """Letters, digits, `-` and `_` as they are, every other byte as `!XX`, with a slash
    after each 200 characters. The form of a prefix is a prefix of the form."""
    name = _UNSAFE.sub(_escape, text.encode()).decode()
    return "/".join(name[start : start + _PART] for start in range(0, len(name), _PART))


def unescaped(name: str) -> str:
    """The text again; raises `CorruptData` where `escaped` did not make the name."""
    parts = _ESCAPED.split(name.replace("/", ""))
    parts[1::2] = [chr(int(code, 16)) for code in parts[1::2]]
    try:
        return "".join(parts).encode("latin-1").decode()
    except UnicodeError as exc:
        raise CorruptData(f"no store wrote an object named {name!r}") from exc


def _escape(match: re.Match[bytes]) -> bytes:
    return b"!%02X" % match[0][0]
