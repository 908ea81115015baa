"""What an append may do to a stream of the protocol, decided without I/O.

A `Draft` takes the requests of one append in order, and decides for each whether it is
accepted, was done before, or is refused. The decisions hold only once the store has applied
the append under the version that the draft was made from.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable.attributes import (
    CLOSED_BY,
    PRODUCERS,
    STREAM_SEQ,
    ParsedStream,
    Producer,
    hour_now,
    write_producers,
)
from streamstores.http.durable.offsets import format_offset
from streamstores.limits import Limits

__all__ = ["AppendRequest", "Claim", "Draft", "Taken", "closed_error"]

_KEPT_FOR_OTHERS = 1024  # bytes of the attributes that producers may not use


class Claim(NamedTuple):
    """The producer of a request, and the request's place in the producer's sequence."""

    key: str
    epoch: int
    seq: int

    @classmethod
    def of(cls, producer_id: str, epoch: int, seq: int) -> Claim:
        """The id is stored as a digest, so its length does not matter."""
        digest = hashlib.sha256(producer_id.encode()).digest()[:12]
        return cls(base64.urlsafe_b64encode(digest).decode(), epoch, seq)

    def __str__(self) -> str:
        return f"{self.key} {self.epoch} {self.seq}"


class AppendRequest(NamedTuple):
    """A `POST`, parsed."""

    chunks: tuple[bytes, ...]
    size: int
    mime: str | None
    """None for a request without a body, which only closes the stream."""
    closes: bool = False
    seq: str | None = None
    claim: Claim | None = None


class Taken(NamedTuple):
    """The result of a request that was done, now or before."""

    tail: int
    is_closed: bool
    is_new: bool
    epoch: int | None = None
    seq: int | None = None
    """The highest sequence number accepted from the producer."""


class Draft:
    """A stream as it will be after an append that is being put together."""

    __slots__ = (
        "_attributes",
        "_closed_by",
        "_limits",
        "_producer_memory",
        "_producers",
        "_seq",
        "accepted",
        "chunks",
        "is_closed",
        "known",
        "tail",
    )

    def __init__(self, known: ParsedStream, limits: Limits, producer_memory: float) -> None:
        self.known: ParsedStream = known
        self.chunks: list[bytes] = []
        self.tail: int = known.info.tail
        self.is_closed: bool = known.is_closed
        self.accepted: int = 0
        """How many requests are part of the append. With none there is nothing to append."""
        self._attributes: dict[str, str] | None = None
        self._seq = known.seq
        self._producers: Mapping[str, Producer] = known.producers
        self._closed_by = known.closed_by
        self._limits = limits
        self._producer_memory = producer_memory

    @property
    def attributes(self) -> dict[str, str] | None:
        """The new attributes; None if they do not change."""
        return self._attributes

    def take(self, request: AppendRequest) -> Taken | HttpError:
        """Accept the request (`is_new`), or say that it was done before or is refused.

        The checks are in the protocol's order, which decides the refusal if several apply:
        the closed stream, the content type, the producer, the sequence.
        """
        try:
            return self._take(request)
        except HttpError as exc:
            return exc

    def _take(self, request: AppendRequest) -> Taken:
        """The same, but raises the refusal."""
        if self.is_closed:
            return self._take_closed(request)
        if request.mime is not None and request.mime != self.known.content.mime:
            message = f"the stream is {self.known.content.mime}"
            raise HttpError(409, "content_type_mismatch", message)
        claim = request.claim
        if claim is None and request.seq is None:
            return self._accept(request)  # the hot path
        if claim is not None:
            current = self._producers.get(claim.key)
            if _was_done(current, claim):
                assert current is not None, "an unknown producer has done nothing"
                return Taken(self.tail, False, False, current.epoch, current.seq)
        if request.seq is not None and self._seq is not None and request.seq <= self._seq:
            raise HttpError(409, "sequence_conflict", "Stream-Seq does not grow")
        self._remember(request)
        return self._accept(request)

    def _accept(self, request: AppendRequest) -> Taken:
        self.accepted += 1
        self.chunks += request.chunks
        self.tail += request.size
        self.is_closed = request.closes
        if request.claim is None:
            return Taken(self.tail, request.closes, True)
        return Taken(self.tail, request.closes, True, request.claim.epoch, request.claim.seq)

    def _take_closed(self, request: AppendRequest) -> Taken:
        """On a closed stream, only the request that closed it can be repeated."""
        claim = request.claim
        # A close without a producer changes nothing the second time, whichever client asked
        # first. With a body it would have to append, so it is refused.
        if claim is None and request.closes and not request.chunks:
            return Taken(self.tail, True, False)
        if claim is not None and self._closed_by == str(claim):
            return Taken(self.tail, True, False, claim.epoch, claim.seq)
        raise closed_error(self.tail)

    def _remember(self, request: AppendRequest) -> None:
        """Enter the request's producer and sequence into the new attributes."""
        attributes = dict(self._attributes or self.known.info.attributes)
        claim = request.claim
        if claim is not None:  # first, because this can refuse, and must then change nothing
            producers = {key: each for key, each in self._producers.items() if key != claim.key}
            producers[claim.key] = Producer(claim.epoch, claim.seq, hour_now())
            attributes[PRODUCERS] = self._fitting(producers, attributes)
            self._producers = producers
            if request.closes:
                self._closed_by = attributes[CLOSED_BY] = str(claim)
        if request.seq is not None:
            self._seq = attributes[STREAM_SEQ] = request.seq
        self._attributes = attributes

    def _fitting(self, producers: dict[str, Producer], attributes: dict[str, str]) -> str:
        """The attribute's text with these producers.

        If they do not fit, those silent for longer than `producer_memory` are removed, the
        longest silent first: they no longer repeat their last request. Raises `HttpError` 429
        if that is not enough.
        """
        room = self._limits.attributes_bytes - _KEPT_FOR_OTHERS
        room -= sum(
            len(key) + len(value.encode())
            for key, value in attributes.items()
            if key not in (PRODUCERS, STREAM_SEQ, CLOSED_BY)
        )
        text = write_producers(producers)
        oldest = hour_now() - self._producer_memory / 3600
        # The last entry is the producer of this request. The others are in the order of their
        # last appends.
        for key, producer in list(producers.items())[:-1]:
            if len(text) <= room:
                break
            if producer.hour < oldest:
                del producers[key]
                text = write_producers(producers)
        if len(text) > room:
            message = f"the stream has {len(producers) - 1} producers, and no room for another"
            raise HttpError(429, "too_many_producers", message, headers={"Retry-After": "3600"})
        return text


def closed_error(tail: int) -> HttpError:
    headers = {"Stream-Closed": "true", "Stream-Next-Offset": format_offset(tail)}
    return HttpError(409, "stream_closed", "the stream is closed", headers=headers)


def _was_done(current: Producer | None, claim: Claim) -> bool:
    """Whether the claim repeats an accepted request. Raises `HttpError` for a stale epoch, an
    epoch that does not begin with sequence 0, and a gap."""
    if current is not None and claim.epoch < current.epoch:
        # The client needs the number, to begin the epoch after it if it means to take over.
        headers = {"Producer-Epoch": str(current.epoch)}
        raise HttpError(403, "stale_epoch", "a newer epoch has begun", headers=headers)
    if current is not None and claim.epoch > current.epoch and claim.seq != 0:
        raise HttpError(400, "epoch_must_start_at_zero", "a new epoch begins with sequence 0")
    is_same = current is not None and claim.epoch == current.epoch
    expected = current.seq + 1 if current is not None and is_same else 0
    # A gap is refused and never filled later: what was skipped may still be on its way.
    if claim.seq > expected:
        headers = {
            "Producer-Expected-Seq": str(expected),
            "Producer-Received-Seq": str(claim.seq),
        }
        raise HttpError(409, "sequence_gap", f"sequence {expected} is next", headers=headers)
    return claim.seq < expected
