"""The names of a stream's keys: safe for every id, and in one slot of a cluster."""

from __future__ import annotations

import re

from streamstores.errors import InvalidRequest
from streamstores.limits import check_prefix

# A cluster takes the slot from the text between the first pair of braces.
_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
_GLOB = re.compile(rb"[*?\[\]\\^-]")


class StreamKeys:
    """The keys under one prefix: `<prefix>:{<id>}` and `<prefix>:{<id>}:records`.

    In an id `%`, `{` and `}` are percent-encoded; every other character is kept.
    """

    def __init__(self, prefix: str) -> None:
        check_prefix(prefix)
        if not prefix or "{" in prefix or "}" in prefix:
            raise InvalidRequest("a prefix is text without braces: they decide the slot")
        self.prefix = prefix
        self._start = f"{prefix}:{{".encode()

    def info(self, stream_id: str) -> bytes:
        """The hash of the stream's info, and the channel of its notices."""
        return self._start + _escaped(stream_id) + b"}"

    def records(self, stream_id: str) -> bytes:
        """The Redis stream of the stream's records."""
        return self.info(stream_id) + b":records"

    def pattern(self, id_prefix: str) -> bytes:
        """The pattern for `SCAN` that matches the info keys of all ids with this prefix."""
        return _GLOB.sub(rb"\\\g<0>", self._start + _escaped(id_prefix)) + b"*}"

    def stream_id(self, info_key: bytes) -> str:
        """The id whose info key this is."""
        text = info_key[len(self._start) : -1].decode()
        return text.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")


def _escaped(stream_id: str) -> bytes:
    return stream_id.translate(_ESCAPES).encode()
