"""The Lua scripts, and their replies as the contract's values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha1
from importlib import resources
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import NamedTuple

from streamstores.errors import CorruptData
from streamstores.limits import from_microseconds
from streamstores.mutations import records_at
from streamstores.store import Record, State, StreamInfo

_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})
_STATES = {state.value.encode(): state for state in State}


class Script(NamedTuple):
    text: bytes
    digest: bytes
    """By which a server knows the script once it has run it."""


def _load(name: str) -> Script:
    folder = resources.files("streamstores.backends._redis")
    text = (folder / "common.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


CREATE = _load("create")
APPEND = _load("append")
INFO = _load("info")
READ = _load("read")
EXPIRE = _load("expire")
DELETE = _load("delete")


class Reply(NamedTuple):
    """What a script said of a living stream."""

    code: bytes
    info: StreamInfo


def parse(stream_id: str, reply: bytes) -> Reply | None:
    """The reply of a script in its parts; None where there was no stream.

    Raises `CorruptData` for what no store wrote.
    """
    if not reply:
        return None
    try:
        code, state, tail, version, created_at, ttl, expires_at, error, attributes = (
            reply.split(b"\n")
        )
        info = StreamInfo(
            stream_id,
            _STATES[state],
            int(tail),
            int(version),
            str(json.loads(error)) if error else None,
            _attributes(attributes) if attributes else _NO_ATTRIBUTES,
            from_microseconds(int(created_at)),
            float(ttl) if ttl else None,
            from_microseconds(int(expires_at)) if expires_at else None,
        )
    except (ValueError, KeyError, OverflowError, AttributeError) as exc:
        raise CorruptData(f"stream {stream_id!r} is not what a store wrote: {exc!r}") from exc
    return Reply(code, info)


class Notice(NamedTuple):
    """What the script of a mutation told the followers."""

    version: int | None
    """None: the stream began or ended."""
    sender: bytes
    news: bytes
    """What a plain append added, as `news_in` takes it; empty: not told."""


SUBSCRIBED = Notice(None, b"", b"")
"""As good as a notice is that a subscription holds: what came before it was not heard."""


class News(NamedTuple):
    records: list[Record]
    ttl: float | None
    expires_at: datetime | None


def notice_of(message: bytes) -> Notice:
    """Whatever was published: what no script of ours wrote is a notice that tells nothing."""
    head, _, news = message.partition(b"\n")
    version, _, sender = head.partition(b" ")
    return Notice(int(version) if version.isdigit() else None, sender, news)


def news_in(text: bytes) -> News | None:
    """None where it is not what a script of ours wrote."""
    try:
        start, ttl, expires_at, lengths, data = text.split(b"\n", 4)
        return News(
            records_of(lengths, [data], int(start)),
            float(ttl) if ttl else None,
            from_microseconds(int(expires_at)) if expires_at else None,
        )
    except (ValueError, OverflowError):
        return None


def records_of(lengths: bytes, parts: list[bytes], offset: int) -> list[Record]:
    """Records with these lengths, the first one at `offset`; `parts` are their bytes, those of
    each or those of all."""
    if not lengths:
        return []
    offsets = [*accumulate(map(int, lengths.split(b",")), initial=offset)]
    if len(parts) == 1:
        [data] = parts
        parts = [data[a - offset : b - offset] for a, b in pairwise(offsets)]
    return records_at(offsets, parts)


def text_of(attributes: Mapping[str, str]) -> bytes:
    """The attributes in the form that is stored: on one line, whatever they contain."""
    return json.dumps(dict(attributes), ensure_ascii=False).encode() if attributes else b"{}"


def text_of_error(error: str | None) -> bytes:
    return b"" if error is None else json.dumps(error, ensure_ascii=False).encode()


@lru_cache(maxsize=64)
def _attributes(text: bytes) -> Mapping[str, str]:
    """Cached: a producer gets the same ones back with every append."""
    attributes = json.loads(text)
    return MappingProxyType(dict(attributes.items()))
