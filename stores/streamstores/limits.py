"""Every bound of a request: its number, its check, and its message.

The checks are pure: they see the request and the store's `Limits`, never a stream. A store
calls them before it asks its backend, so a refused call changes nothing. Each raises
`InvalidRequest` for a value of the wrong kind and `LimitExceeded` for a value over a limit.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

from streamstores.errors import InvalidRequest, LimitExceeded

__all__ = [
    "MAX_OFFSET",
    "MAX_TTL_SECONDS",
    "MAX_VERSION",
    "Limits",
    "check_attributes",
    "check_chunks",
    "check_error",
    "check_expiry",
    "check_max_bytes",
    "check_offset",
    "check_prefix",
    "check_seconds",
    "check_stream_id",
    "check_sweep_limit",
    "check_version",
    "first_version",
    "from_microseconds",
    "in_utc",
    "to_microseconds",
]

MAX_OFFSET = 2**53 - 1  # Lua and JavaScript count with doubles, which are exact up to here
MAX_VERSION = 2**63 - 1  # of a bigint in SQL
MAX_TTL_SECONDS = 100 * 365 * 86_400

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Limits:
    """What a store accepts, and the two delays that its users should know.

    Sizes are bytes; of a text, those of its UTF-8 form. The size of a stream is unlimited.
    """

    stream_id_bytes: int = 255
    record_bytes: int = 1_048_576
    append_bytes: int = 16_777_216
    """All chunks of one `append` together, which the backend applies in one step."""
    append_records: int = 10_000
    """The number of chunks of one `append`."""
    attributes_bytes: int = 16_384
    """All keys and values together."""
    error_bytes: int = 4_096
    linger: float = 0.0
    """The seconds for which a writer should gather chunks before it appends them; above 0 if
    each request to the backend costs money."""
    poll_interval: float = 5.0
    """The seconds by which a lost notification can delay `wait` and followers."""


def check_stream_id(stream_id: str, limits: Limits) -> None:
    """An id is 1 to `stream_id_bytes` bytes of UTF-8 without control characters."""
    if not isinstance(stream_id, str):
        raise InvalidRequest(f"a stream id is a str, not {type(stream_id).__name__}")
    if not stream_id:
        raise InvalidRequest("a stream id cannot be empty")
    # They would split a line of a log or of a stored form, and Postgres cannot store NUL.
    if _CONTROL.search(stream_id):
        raise InvalidRequest("a stream id cannot contain control characters")
    size = _utf8_bytes(stream_id, "a stream id")
    if size > limits.stream_id_bytes:
        raise LimitExceeded(
            f"a stream id of {size} bytes is over the limit of {limits.stream_id_bytes}",
            limit=limits.stream_id_bytes,
            value=size,
        )


def check_chunks(chunks: tuple[bytes, ...], limits: Limits) -> tuple[bytes, ...]:
    """The chunks as `bytes`. Each is bytes, a bytearray or a memoryview, and never empty."""
    total = 0
    # One loop for all checks: it runs for every append.
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            # Rarely: the common case is one pass without a copy.
            return check_chunks(_as_bytes(chunks), limits)
        size = len(chunk)
        if size == 0:
            raise InvalidRequest("a record is never empty: leave the empty chunk out")
        if size > limits.record_bytes:
            raise LimitExceeded(
                f"a record of {size} bytes is over the limit of {limits.record_bytes}",
                limit=limits.record_bytes,
                value=size,
            )
        total += size
    if total > limits.append_bytes:
        raise LimitExceeded(
            f"an append of {total} bytes is over the limit of {limits.append_bytes}",
            limit=limits.append_bytes,
            value=total,
        )
    if len(chunks) > limits.append_records:
        raise LimitExceeded(
            f"an append of {len(chunks)} records is over the limit of {limits.append_records}",
            limit=limits.append_records,
            value=len(chunks),
        )
    return chunks


def check_attributes(attributes: Mapping[str, str] | None, limits: Limits) -> Mapping[str, str]:
    """A frozen copy of the attributes, a mapping of `str` to `str`; None means none."""
    # A list or "" is as empty as a dict, but it is a mistake.
    if not attributes:
        if attributes is None or isinstance(attributes, Mapping):
            return _NO_ATTRIBUTES
        raise InvalidRequest("attributes are a dict of str to str")
    if not isinstance(attributes, Mapping):
        raise InvalidRequest("attributes are a dict of str to str")
    size = 0
    for key, value in attributes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidRequest("attributes are a dict of str to str")
        size += _utf8_bytes(key, "an attribute") + _utf8_bytes(value, "an attribute")
    if size > limits.attributes_bytes:
        raise LimitExceeded(
            f"attributes of {size} bytes are over the limit of {limits.attributes_bytes}",
            limit=limits.attributes_bytes,
            value=size,
        )
    # A copy, so that a caller's later change cannot reach the stream or its infos.
    return MappingProxyType(dict(attributes))


def check_error(error: str | None, limits: Limits) -> None:
    """An error is a text of at most `error_bytes` bytes, or None."""
    if error is None:
        return
    if not isinstance(error, str):
        raise InvalidRequest(f"an error is a str, not {type(error).__name__}")
    size = _utf8_bytes(error, "an error")
    if size > limits.error_bytes:
        raise LimitExceeded(
            f"an error of {size} bytes is over the limit of {limits.error_bytes}",
            limit=limits.error_bytes,
            value=size,
        )


def check_expiry(ttl: float | None, expires_at: datetime | None) -> float | None:
    """The `ttl` as a float. At most one of the two is given.

    A `ttl` is above 0 and at most 100 years, in seconds; `expires_at` has a timezone.
    """
    if ttl is not None:
        if expires_at is not None:
            raise InvalidRequest("give ttl or expires_at, not both")
        if not _is_number(ttl) or not 0 < ttl <= MAX_TTL_SECONDS:
            raise InvalidRequest(f"ttl is seconds, above 0 and at most 100 years, not {ttl!r}")
        return float(ttl)
    is_aware = isinstance(expires_at, datetime) and expires_at.tzinfo is not None
    if expires_at is not None and not is_aware:
        raise InvalidRequest("expires_at is a datetime with a timezone")
    return None


def check_offset(offset: int, name: str = "offset") -> int:
    """The offset, capped at `MAX_OFFSET`, which no stream reaches."""
    # Not `isinstance`: True is an int as well.
    if type(offset) is not int or offset < 0:
        raise InvalidRequest(f"{name} is a whole number from 0, not {offset!r}")
    # Capped, not refused: an offset beyond any tail is OffsetOutOfRange, whatever its size.
    return min(offset, MAX_OFFSET)


def check_version(version: int) -> int:
    """The version, capped at `MAX_VERSION`, which no stream reaches."""
    if type(version) is not int or version < 0:
        raise InvalidRequest(f"version is a whole number from 0, not {version!r}")
    return min(version, MAX_VERSION)


def check_max_bytes(max_bytes: int) -> None:
    if type(max_bytes) is not int or max_bytes < 1:
        raise InvalidRequest(f"max_bytes is a whole number from 1, not {max_bytes!r}")


def check_sweep_limit(limit: int) -> None:
    if type(limit) is not int or limit < 1:
        raise InvalidRequest(f"limit is a whole number from 1, not {limit!r}")


def check_seconds(value: float, name: str) -> None:
    """A number of seconds is 0 or more; it may be infinity."""
    if not _is_number(value) or math.isnan(value) or value < 0:
        raise InvalidRequest(f"{name} is seconds from 0, not {value!r}")


def check_prefix(prefix: str) -> None:
    if not isinstance(prefix, str):
        raise InvalidRequest(f"a prefix is a str, not {type(prefix).__name__}")
    _utf8_bytes(prefix, "a prefix")


def first_version() -> int:
    """The version that a stream begins with: random, so that it never meets a namesake's.

    It has 52 bits and so stays exact in a double. A version that was taken from a deleted
    stream matches one of its namesake with a probability of 2**-52 for each comparison.
    """
    return secrets.randbits(52) + 1


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exactly.

    A moment that no calendar holds in UTC becomes the nearest that it holds, so that
    `from_microseconds` can always read what was stored.
    """
    # Not `timestamp()`, whose float has lost the microseconds of far moments.
    delta = moment - _EPOCH
    microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return min(max(microseconds, _FIRST_MICROSECOND), _LAST_MICROSECOND)


def from_microseconds(microseconds: int) -> datetime:
    """The moment in UTC; raises `OverflowError` if no calendar holds it."""
    return _EPOCH + timedelta(microseconds=microseconds)


def in_utc(moment: datetime | None) -> datetime | None:
    """The moment as it is stored and read again; None stays None."""
    return None if moment is None else from_microseconds(to_microseconds(moment))


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST_MICROSECOND = -62_135_596_800_000_000  # 0001-01-01
_LAST_MICROSECOND = 253_402_300_799_999_999  # 9999-12-31 23:59:59.999999


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_bytes(chunks: Iterable[Any]) -> tuple[bytes, ...]:
    """Copies of mutable buffers, so that a caller's later change cannot reach the stream."""
    for chunk in chunks:
        if isinstance(chunk, str):
            raise InvalidRequest("a chunk is bytes, not str: encode the text, as in b'text'")
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise InvalidRequest(f"a chunk is bytes, not {type(chunk).__name__}")
    return tuple(bytes(chunk) for chunk in chunks)


def _utf8_bytes(text: str, what: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{what} is text that UTF-8 can encode") from exc
