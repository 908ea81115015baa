"""The values of the contract: what a stream, a record and a page are.

This module imports nothing of the package, so that errors can carry these values and the
contract can name the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Literal, NamedTuple, Union

__all__ = ["Page", "Record", "State", "StateLike", "StreamInfo"]


class State(str, Enum):
    """Where a stream is in its life; a plain string of the same value does as well."""

    STREAMING = "streaming"
    """A producer may append."""
    STOPPED = "stopped"
    """Paused on request; `append(id, state="streaming", version=v)` reopens it."""
    DONE = "done"
    """Complete; final."""
    ERROR = "error"
    """Failed, `StreamInfo.error` says why; final."""

    @property
    def is_final(self) -> bool:
        return self is State.DONE or self is State.ERROR

    def __str__(self) -> str:
        return self.value


StateLike = Union[State, Literal["streaming", "stopped", "done", "error"]]


class Record(NamedTuple):
    """One appended chunk, or the rest of one where a read began inside it; never empty."""

    offset: int
    """Byte position of the first byte of `data` in the stream."""
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the last byte: where the next record begins."""
        return self.offset + len(self.data)


class StreamInfo(NamedTuple):
    """What a stream is at one moment; a snapshot that does not change."""

    id: str
    state: State
    tail: int
    """The end of the stream in bytes, and the offset of the next record."""
    version: int
    """Grows with every append, change of state and change of attributes, not with `expire`."""
    error: str | None
    """Why, where the state is `error` and its writer said so."""
    attributes: Mapping[str, str]
    created_at: datetime
    """On the backend's clock. With `version` it tells a stream from its namesakes."""
    ttl: float | None
    """Seconds from the last mutation to the end, where the expiry slides."""
    expires_at: datetime | None
    """When the stream ends, on the backend's clock; None: it is kept."""


class Page(NamedTuple):
    """Part of a stream: records and info of one consistent snapshot."""

    records: list[Record]
    """In order and without a gap; at least one if there is one at the offset."""
    next_offset: int
    """Where the next read continues; equal to `info.tail` exactly when this is the end."""
    info: StreamInfo
