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
    """The state of a stream; a plain string of the same value is accepted everywhere."""

    STREAMING = "streaming"
    """A producer may append."""
    STOPPED = "stopped"
    """Paused on request; `append(id, state="streaming", version=v)` reopens it."""
    DONE = "done"
    """Complete; final."""
    ERROR = "error"
    """Failed, and `StreamInfo.error` may say why; final."""

    @property
    def is_final(self) -> bool:
        return self is State.DONE or self is State.ERROR

    def __str__(self) -> str:
        return self.value


StateLike = Union[State, Literal["streaming", "stopped", "done", "error"]]


class Record(NamedTuple):
    """An appended chunk, or its rest if a read began inside it; never empty."""

    offset: int
    """The position of its first byte in the stream."""
    data: bytes

    @property
    def end(self) -> int:
        """The offset after its last byte, at which the next record begins."""
        return self.offset + len(self.data)


class StreamInfo(NamedTuple):
    """A snapshot of what a stream is at one moment."""

    id: str
    state: State
    tail: int
    """The end of the stream in bytes, and the offset of the next record."""
    version: int
    """Grows by 1 with every mutation, a heartbeat included, but not with `expire`."""
    error: str | None
    """Why the state is `error`, if the producer said so."""
    attributes: Mapping[str, str]
    created_at: datetime
    """On the backend's clock, in UTC. With the version it tells a stream from its namesakes."""
    updated_at: datetime
    """When its last mutation was, on the backend's clock, in UTC; `expire` does not move it."""
    ttl: float | None
    """The seconds from the last mutation to the expiry; None if it does not slide."""
    expires_at: datetime | None
    """When the stream expires, on the backend's clock, in UTC; None if it is kept."""


class Page(NamedTuple):
    """Part of a stream: records and info of one consistent snapshot."""

    records: list[Record]
    """In order and without a gap; not empty unless the offset is the tail."""
    next_offset: int
    """The offset at which the next read goes on; equal to `info.tail` exactly at the end."""
    info: StreamInfo
