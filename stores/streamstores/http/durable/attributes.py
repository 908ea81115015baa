"""What a stream of the protocol keeps in its attributes, beside its bytes.

Everything that decides an append is an attribute, so that it changes in the same step as the
bytes: the producers' epochs and sequence numbers, the last `Stream-Seq`, and the request that
closed the stream.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from streamstores.http.durable.content import Content
from streamstores.store import State, StreamInfo

__all__ = [
    "CONTENT_TYPE",
    "FORKED_FROM",
    "FORK_LEDGER",
    "FORK_OFFSET",
    "FORK_SUB_OFFSET",
    "LEDGER",
    "REMOVING",
    "ParsedStream",
    "Producer",
    "hour_now",
    "is_being_removed",
    "is_copying",
    "is_tombstone",
    "write_producers",
]

CONTENT_TYPE = "content-type"
STREAM_SEQ = "stream-seq"
PRODUCERS = "producers"
CLOSED_BY = "closed-by"

FORKED_FROM = "forked-from"
FORK_OFFSET = "fork-offset"
FORK_SUB_OFFSET = "fork-sub-offset"
FORK_LEDGER = "fork-ledger"
"""In a fork: the ledger of its source, which lists this fork."""
COPYING = "copying"
"""In a fork whose bytes are still being copied: to clients it does not exist yet."""
LEDGER = "ledger"
"""In a tombstone: the ledger of the deleted stream."""
REMOVING = "removing"
"""In a tombstone: when its removal began, in seconds since 1970."""

_REMOVAL_SECONDS = 60  # a removal that takes longer counts as abandoned


class Producer(NamedTuple):
    """The last accepted request of one `Producer-Id`."""

    epoch: int
    seq: int
    hour: int
    """When it last appended, in hours since 1970, by the clock of the process that appended."""


class ParsedStream(NamedTuple):
    """A stream's info, with its attributes parsed."""

    info: StreamInfo
    content: Content
    seq: str | None
    producers: Mapping[str, Producer]
    """By the digest of the producer's id, in the order of their last appends."""
    closed_by: str | None

    @classmethod
    def of(cls, info: StreamInfo) -> ParsedStream:
        attributes = info.attributes
        return cls(
            info,
            Content.of(attributes.get(CONTENT_TYPE)),
            attributes.get(STREAM_SEQ),
            _read_producers(attributes.get(PRODUCERS, "")),
            attributes.get(CLOSED_BY),
        )

    def at(self, info: StreamInfo) -> ParsedStream:
        """The same stream at a later info; parses the attributes only if they changed."""
        if info.attributes is self.info.attributes or info.attributes == self.info.attributes:
            return ParsedStream(info, self.content, self.seq, self.producers, self.closed_by)
        return ParsedStream.of(info)

    @property
    def is_closed(self) -> bool:
        return self.info.state is not State.STREAMING


def is_tombstone(info: StreamInfo) -> bool:
    """Whether this replaces a stream that was deleted while it had living forks."""
    return LEDGER in info.attributes


def is_copying(info: StreamInfo) -> bool:
    return COPYING in info.attributes


def is_being_removed(info: StreamInfo) -> bool:
    return time.time() - float(info.attributes.get(REMOVING, "0")) < _REMOVAL_SECONDS


def hour_now() -> int:
    return int(time.time()) // 3600


def write_producers(producers: Mapping[str, Producer]) -> str:
    """The attribute's text. A producer takes about 30 bytes, so 16 KiB hold about 500."""
    return ";".join(
        f"{key} {epoch} {seq} {hour}" for key, (epoch, seq, hour) in producers.items()
    )


def _read_producers(text: str) -> Mapping[str, Producer]:
    producers: dict[str, Producer] = {}
    for entry in text.split(";") if text else ():
        key, epoch, seq, hour = entry.split(" ")
        producers[key] = Producer(int(epoch), int(seq), int(hour))
    return producers
