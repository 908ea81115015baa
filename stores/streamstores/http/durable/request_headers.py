"""The path, headers and query of a request, parsed, and the refusals of bad ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote

from streamstores.errors import InvalidRequest
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange, path_below_mount
from streamstores.http._asgi.requests import check_id
from streamstores.http.durable.content import Content, chunks_of
from streamstores.http.durable.drafts import AppendRequest, Claim
from streamstores.http.durable.expiry import Expiry
from streamstores.http.durable.offsets import BEGINNING, NOW, parse_offset
from streamstores.limits import MAX_TTL_SECONDS, Limits

__all__ = ["RESERVED", "CreateRequest", "Fork", "ReadRequest", "RequestHeaders"]

RESERVED = "__ds/"
"""The prefix of the protocol's control paths, and of the ledgers of forks."""

RequestHeaders = dict[bytes, bytes]

_MEANS_MORE = frozenset(
    {b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq"}
)
_WHOLE_NUMBER = re.compile("0|[1-9][0-9]{0,15}")
_DIGITS = re.compile("[0-9]{1,16}")
_MOST_NUMBER = 2**53 - 1
_MOST_SEQ_CHARS = 256
_MOST_PRODUCER_ID_CHARS = 1024
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Fork(NamedTuple):
    """The source of a fork, and the point up to which it is copied."""

    source_id: str
    offset: int | None
    sub_offset: int


class CreateRequest(NamedTuple):
    """A `PUT`, parsed."""

    content_type: str | None
    """None if the client gave none: a fork then has its source's."""
    expiry: Expiry
    is_closed: bool
    fork: Fork | None


class ReadRequest(NamedTuple):
    """A `GET`, parsed."""

    offset: int | None
    """None means the current tail."""
    live: str | None
    cursor: str | None
    start: str
    """The offset in the client's own text, which is part of the ETag."""


def stream_id_of(exchange: Exchange, limits: Limits) -> str:
    return _own(path_below_mount(exchange.scope)[1:], limits)


def location_of(exchange: Exchange, headers: RequestHeaders, stream_id: str) -> bytes:
    scope = exchange.scope
    root = scope.get("root_path", "").rstrip("/")
    host = headers.get(b"host", b"localhost")
    return b"%b://%b%b" % (
        scope["scheme"].encode(),
        host,
        quote(f"{root}/{stream_id}").encode(),
    )


def read_creation(exchange: Exchange, headers: RequestHeaders, limits: Limits) -> CreateRequest:
    """Parse the headers of a `PUT`. Raises `HttpError` 400."""
    content_type = _text(headers, b"content-type") or None
    Content.of(content_type)
    return CreateRequest(
        content_type,
        _read_expiry(headers),
        _is_true(headers.get(b"stream-closed")),
        _read_fork(exchange, headers, limits),
    )


def read_append(headers: RequestHeaders, body: bytes, limits: Limits) -> AppendRequest:
    """Parse a `POST`. Raises `HttpError` 400 and 413."""
    if body and _MEANS_MORE.isdisjoint(headers):  # the hot path: bytes and nothing else
        content = _content_of(headers.get(b"content-type"))
        chunks = _some_chunks(content, body, limits)
        return AppendRequest(chunks, sum(map(len, chunks)), content.mime)
    closes = _is_true(headers.get(b"stream-closed"))
    seq = _text(headers, b"stream-seq")
    if seq is not None and len(seq) > _MOST_SEQ_CHARS:
        raise HttpError(400, "invalid_seq", f"Stream-Seq is over {_MOST_SEQ_CHARS} characters")
    claim = _read_claim(headers)
    if not body:
        if not closes:
            raise HttpError(400, "empty_body", "there is nothing to append")
        return AppendRequest((), 0, None, closes, None, claim)
    content = _content_of(headers.get(b"content-type"))
    chunks = _some_chunks(content, body, limits)
    return AppendRequest(chunks, sum(map(len, chunks)), content.mime, closes, seq, claim)


def read_reading(exchange: Exchange) -> ReadRequest:
    """Parse the query of a `GET`. Raises `HttpError` 400."""
    raw: bytes = exchange.scope.get("query_string", b"")
    query = parse_qs(raw.decode("latin-1"), keep_blank_values=True) if raw else {}
    live = _single(query, "live")
    if live not in (None, "long-poll", "sse"):
        raise HttpError(400, "invalid_live", "live is long-poll or sse")
    start = _single(query, "offset")
    if start is None and live is not None:
        raise HttpError(400, "missing_offset", f"{live} takes an offset")
    start = BEGINNING if start is None else start
    cursor = _single(query, "cursor")
    if start == NOW:
        return ReadRequest(None, live, cursor, start)
    return ReadRequest(0 if start == BEGINNING else parse_offset(start), live, cursor, start)


def _own(stream_id: str, limits: Limits) -> str:
    checked = check_id(stream_id, limits)
    # With the slash, so that the name without it is reserved too.
    if f"{checked}/".startswith(RESERVED):
        raise HttpError(404, "reserved_path", f"paths below {RESERVED} are reserved")
    return checked


@lru_cache(maxsize=256)
def _content_of(header: bytes | None) -> Content:
    if not header:
        raise HttpError(400, "missing_content_type", "Content-Type is required")
    return Content.of(header.decode("latin-1"))


def _some_chunks(content: Content, body: bytes, limits: Limits) -> tuple[bytes, ...]:
    chunks = chunks_of(content, body, limits)
    if not chunks:
        raise HttpError(400, "empty_body", "an empty array appends nothing")
    return chunks


def _text(headers: RequestHeaders, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1").strip()


def _is_true(value: bytes | None) -> bool:
    return value is not None and value.strip().lower() == b"true"


def _single(query: Mapping[str, list[str]], name: str) -> str | None:
    values = query.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise HttpError(400, f"invalid_{name}", f"{name} is given more than once")
    return values[0]


def _read_expiry(headers: RequestHeaders) -> Expiry:
    ttl, at = _text(headers, b"stream-ttl"), _text(headers, b"stream-expires-at")
    if ttl is not None and at is not None:
        raise HttpError(400, "invalid_expiry", "give Stream-TTL or Stream-Expires-At, not both")
    if ttl is not None:
        if not _WHOLE_NUMBER.fullmatch(ttl) or int(ttl) > MAX_TTL_SECONDS:
            raise HttpError(400, "invalid_ttl", "Stream-TTL is whole seconds, up to 100 years")
        return Expiry(ttl=float(ttl) or 0.001)  # 0 expires at once; no store takes it
    return Expiry(at=None if at is None else _moment(at))


def _moment(text: str) -> datetime:
    """A timestamp of RFC 3339 in UTC. `fromisoformat` of Python 3.10 cannot parse all of them.

    Raises `HttpError` `invalid_expires_at`.
    """
    match = _MOMENT.fullmatch(text)
    try:
        if match is None:
            raise ValueError("not a timestamp of RFC 3339")
        day, time, fraction, zone = match.groups()
        zone = "+00:00" if zone in "Zz" else zone
        fraction = (fraction or "0")[:6].ljust(6, "0")
        moment = datetime.fromisoformat(f"{day}T{time}.{fraction}{zone}")
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError) as exc:
        message = "Stream-Expires-At is a timestamp of RFC 3339"
        raise HttpError(400, "invalid_expires_at", message) from exc


def _read_fork(exchange: Exchange, headers: RequestHeaders, limits: Limits) -> Fork | None:
    """The fork that a `PUT` asks for; None if it creates an independent stream."""
    source, offset = (
        _text(headers, b"stream-forked-from"),
        _text(headers, b"stream-fork-offset"),
    )
    sub_offset = _text(headers, b"stream-fork-sub-offset")
    if source is None:
        if offset is not None or sub_offset is not None:
            message = "a fork's offsets need Stream-Forked-From"
            raise HttpError(400, "missing_forked_from", message)
        return None
    if sub_offset is not None and not _WHOLE_NUMBER.fullmatch(sub_offset):
        message = "Stream-Fork-Sub-Offset is a whole number from 0"
        raise HttpError(400, "invalid_sub_offset", message)
    return Fork(
        _source_id(exchange, source, limits),
        None if offset is None else parse_offset(offset),
        int(sub_offset or 0),
    )


def _source_id(exchange: Exchange, source: str, limits: Limits) -> str:
    """The stream id in a path of this server, which begins with the application's mount."""
    scope = exchange.scope
    root = scope.get("root_path", "").rstrip("/")
    # The header is a path as in a URL, whereas the server has decoded the path of the request
    # itself.
    path = unquote(source)
    if not path.startswith(f"{root}/"):
        raise HttpError(404, "source_not_found", "no such stream to fork")
    try:
        return _own(path_below_mount({**scope, "path": path})[1:], limits)
    except InvalidRequest as exc:
        raise HttpError(400, "invalid_id", str(exc)) from exc


def _read_claim(headers: RequestHeaders) -> Claim | None:
    producer_id = _text(headers, b"producer-id")
    epoch, seq = _text(headers, b"producer-epoch"), _text(headers, b"producer-seq")
    if producer_id is None and epoch is None and seq is None:
        return None
    if producer_id is None or epoch is None or seq is None:
        message = "Producer-Id, Producer-Epoch and Producer-Seq go together"
        raise HttpError(400, "invalid_producer", message)
    if not 0 < len(producer_id) <= _MOST_PRODUCER_ID_CHARS:
        message = f"Producer-Id has 1 to {_MOST_PRODUCER_ID_CHARS} characters"
        raise HttpError(400, "invalid_producer", message)
    return Claim.of(producer_id, _number(epoch), _number(seq))


def _number(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > _MOST_NUMBER:
        message = "Producer-Epoch and Producer-Seq are whole numbers up to 2^53-1"
        raise HttpError(400, "invalid_producer", message)
    return int(text)
