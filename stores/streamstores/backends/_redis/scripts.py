"""The Lua scripts, and their replies as the contract's values."""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha1
from importlib import resources
from itertools import accumulate, pairwise
from typing import NamedTuple

from streamstores.errors import CorruptData
from streamstores.limits import from_microseconds
from streamstores.mutations import records_at
from streamstores.store import Record, StreamInfo
from streamstores.stored_form import error_from_json, stored_info

# Bounded, because any client may PUBLISH, and `int` raises for more than 4,300 digits.
_VERSION = re.compile(b"[0-9]{1,19}")


class Script(NamedTuple):
    text: bytes
    digest: bytes
    """The name by which a server knows a script that it has run before."""


def _load(name: str) -> Script:
    folder = resources.files("streamstores.backends._redis")
    text = (folder / "common.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    # Redis names a script by its SHA-1. Builds of Python for FIPS refuse that hash for anything
    # that could be meant as protection.
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


CREATE = _load("create")
APPEND = _load("append")
INFO = _load("info")
READ = _load("read")
EXPIRE = _load("expire")
DELETE = _load("delete")
VERSIONS = _load("versions")


class ScriptReply(NamedTuple):
    """What a script said of a living stream."""

    code: bytes
    info: StreamInfo


def parse_reply(stream_id: str, reply: bytes) -> ScriptReply | None:
    """The reply of a script in its parts; None if there was no stream.

    Raises `CorruptData` for what no store wrote.
    """
    if not reply:
        return None
    try:
        # No field can contain a line feed: JSON escapes it, and the others are numbers and
        # states.
        code, state, tail, version, created_at, updated_at, *others = reply.split(b"\n")
        ttl, expires_at, error, attributes = others
        info = stored_info(
            stream_id,
            state=state.decode(),
            tail=int(tail),
            version=int(version),
            error=error_from_json(error),
            attributes=attributes,
            created_at=int(created_at),
            updated_at=int(updated_at),
            ttl=float(ttl) if ttl else None,
            expires_at=int(expires_at) if expires_at else None,
        )
    except ValueError as exc:
        raise CorruptData(f"stream {stream_id!r} is not what a store wrote: {exc!r}") from exc
    return ScriptReply(code, info)


def versions_in(reply: bytes) -> list[int | None]:
    """The versions in the reply of `VERSIONS`; None for a stream that is gone."""
    return [int(each) if _VERSION.fullmatch(each) else None for each in reply.split(b",")]


class Notice(NamedTuple):
    """What the script of a mutation told the followers."""

    version: int | None
    """None: the stream began or is gone."""
    sender: bytes
    """The name of the connection that the mutation came from."""
    news: bytes
    """What a plain append added, as `news_in` takes it; empty if the notice does not tell."""


class News(NamedTuple):
    """What a plain append added, when it was, and when the stream expires after it."""

    records: list[Record]
    updated_at: datetime
    ttl: float | None
    expires_at: datetime | None


def notice_of(message: bytes) -> Notice:
    """A published message as a notice; a foreign message is a notice that tells nothing."""
    head, _, news = message.partition(b"\n")
    version, _, sender = head.partition(b" ")
    return Notice(int(version) if _VERSION.fullmatch(version) else None, sender, news)


def news_in(text: bytes) -> News | None:
    """None if it is not what a script of ours wrote."""
    try:
        # Five cuts and no more, because the records may contain line feeds.
        start, updated_at, ttl, expires_at, lengths, data = text.split(b"\n", 5)
        return News(
            records_of(lengths, [data], int(start)),
            from_microseconds(int(updated_at)),
            float(ttl) if ttl else None,
            from_microseconds(int(expires_at)) if expires_at else None,
        )
    except (ValueError, OverflowError):
        return None


def records_of(lengths: bytes, parts: list[bytes], offset: int) -> list[Record]:
    """Records with these lengths, the first of them at `offset`.

    `parts` are the bytes of each record, or a single text with the bytes of all.
    """
    if not lengths:
        return []
    offsets = [*accumulate(map(int, lengths.split(b",")), initial=offset)]
    if len(parts) == 1:
        [data] = parts
        parts = [data[a - offset : b - offset] for a, b in pairwise(offsets)]
    return records_at(offsets, parts)
