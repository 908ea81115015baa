"""From what a backend stores to the values of the contract, and back.

Every backend keeps the same fields of a stream in a row, a hash or a header. How they are
encoded differs; what they mean is written here once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

from streamstores.errors import CorruptData, OffsetOutOfRange
from streamstores.limits import from_microseconds
from streamstores.values import Page, Record, State, StreamInfo

__all__ = [
    "NO_ATTRIBUTES",
    "attributes_from_json",
    "attributes_to_json",
    "error_from_json",
    "error_to_json",
    "page_of",
    "stored_info",
]

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})

_STATES: dict[str, State] = {state.value: state for state in State}
# One encoder for all: `json.dumps` makes a new one for every call with these settings.
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def stored_info(
    stream_id: str,
    *,
    state: str,
    tail: int,
    version: int,
    error: str | None,
    attributes: Mapping[str, str] | str | bytes | None,
    created_at: int | datetime,
    updated_at: int | datetime,
    ttl: float | None,
    expires_at: int | datetime | None,
) -> StreamInfo:
    """The info that a stream's stored fields mean.

    `state` is the value of a `State`. `attributes` are a mapping, or JSON as
    `attributes_to_json` writes it; None and an empty text mean that there are none. Moments
    are microseconds since 1970 or datetimes with a timezone.

    Raises `CorruptData` if no store wrote such fields.
    """
    try:
        return StreamInfo(
            stream_id,
            _STATES[state],
            tail,
            version,
            error,
            _attributes(attributes),
            _moment(created_at),
            _moment(updated_at),
            ttl,
            None if expires_at is None else _moment(expires_at),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as exc:
        # An unknown state, JSON that is none, or a year that no calendar holds.
        raise CorruptData(f"stream {stream_id!r} is not what a store wrote: {exc!r}") from exc


def attributes_to_json(attributes: Mapping[str, str]) -> str:
    """The attributes on one line of text without control characters."""
    return _dumps(dict(attributes)) if attributes else "{}"


# A producer gets the same ones back with every append: as many as a process produces at a time.
@lru_cache(maxsize=1024)
def attributes_from_json(text: str | bytes) -> Mapping[str, str]:
    """The attributes, frozen, because the same mapping is handed out many times.

    Raises `ValueError` if this is not what `attributes_to_json` wrote.
    """
    found: Any = json.loads(text)
    attributes = cast("dict[str, str]", found)
    if type(found) is dict and all(type(value) is str for value in attributes.values()):
        return MappingProxyType(attributes)
    raise ValueError("attributes are an object of texts")


def error_to_json(error: str | None) -> str | None:
    """The error of a failed stream on one line, for a backend that cannot store NUL."""
    return None if error is None else _dumps(error)


def error_from_json(text: str | bytes | None) -> str | None:
    """The error that `error_to_json` wrote; None and an empty text mean that there is none.

    Raises `ValueError` if this is not what it wrote.
    """
    if not text:
        return None
    error = json.loads(text)
    if type(error) is str:
        return error
    raise ValueError("an error is a text")


def page_of(info: StreamInfo, records: Iterable[Record], offset: int, max_bytes: int) -> Page:
    """The page that `read` returns, from records that include those after `offset`.

    A record that begins before `offset` is cut; at least one record is kept, whatever its size.
    Raises `OffsetOutOfRange` beyond the tail.
    """
    if offset > info.tail:
        raise OffsetOutOfRange(info.id, offset, tail=info.tail)
    page: list[Record] = []
    end = offset  # of an empty page, at the tail
    for record in records:
        if record.end <= offset:
            continue
        if page and record.end > offset + max_bytes:
            break
        begin = max(record.offset, offset)
        page.append(Record(begin, record.data[begin - record.offset :]))
        end = record.end
    return Page(page, end, info)


def _attributes(stored: Mapping[str, str] | str | bytes | None) -> Mapping[str, str]:
    if not stored:
        return NO_ATTRIBUTES
    if isinstance(stored, (str, bytes)):
        return attributes_from_json(stored)
    return MappingProxyType(dict(stored))


def _moment(stored: int | datetime) -> datetime:
    return stored if isinstance(stored, datetime) else from_microseconds(stored)
