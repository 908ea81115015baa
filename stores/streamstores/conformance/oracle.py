"""An oracle for `model_tests`: what a correct store would answer to each operation.

It deliberately shares no code with the stores, their rules or their limits. A mistake in shared
code would be made on both sides and go unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from streamstores.store import Page, StreamInfo

__all__ = ["Oracle", "OracleStream", "Wish"]


@dataclass
class Wish:
    """The arguments of an append."""

    chunks: tuple[bytes, ...] = ()
    at: int | None = None
    version: int | None = None
    state: str | None = None
    error: str | None = None
    attributes: dict[str, str] | None = None


@dataclass
class OracleStream:
    """The expected content of a stream.

    What only the store can choose, such as the version and the times, is learned from its
    first answer and then expected to stay.
    """

    id: str
    data: bytes
    ends: list[int]
    state: str
    attributes: dict[str, str]
    ttl: float | None = None
    expires_at: datetime | None = None
    error: str | None = None
    version: int = -1
    created_at: datetime | None = None
    updated_at: datetime | None = None
    left_at: set[int] = field(default_factory=set[int])
    """The tails at which the stream was not streaming: the offsets at which a follower may
    have ended."""

    def __post_init__(self) -> None:
        self.note_state()

    def note_state(self) -> None:
        if self.state != "streaming":
            self.left_at.add(len(self.data))

    def verdict(self, wish: Wish) -> str:
        """What an append must do: "nothing", "closed", "conflict" or "changes"."""
        is_ended = self.state != "streaming"
        if (
            is_ended
            and wish.state == self.state
            and not wish.chunks
            and wish.attributes is None
        ):
            return "nothing"
        if self.state in ("done", "error"):
            return "closed"
        if self.state == "stopped":
            is_reopened = wish.state == "streaming"
            is_ending = wish.state in ("done", "error") and not wish.chunks
            if not is_reopened and not is_ending:
                return "closed"
        if wish.at is not None and wish.at != len(self.data):
            return "conflict"
        if wish.version is not None and wish.version != self.version:
            return "conflict"
        return "changes"

    def apply(self, wish: Wish) -> None:
        for chunk in wish.chunks:
            self.data += chunk
            self.ends.append(len(self.data))
        if wish.state is not None:
            self.state = wish.state
        if wish.error is not None:
            self.error = wish.error
        if wish.attributes is not None:
            self.attributes = dict(wish.attributes)
        self.note_state()

    def learn(self, info: StreamInfo, *, is_new_version: bool) -> None:
        """Compare what the store returned, and remember what it chose."""
        if is_new_version:
            assert info.version > self.version, f"version {self.version} -> {info.version}"
            self.version = info.version
            self.updated_at = info.updated_at
        if self.ttl is not None and is_new_version:
            assert info.expires_at is not None, "a ttl without an end"
            self.expires_at = info.expires_at
        if self.created_at is None:
            self.created_at = info.created_at
        self.compare(info)

    def compare(self, info: StreamInfo) -> None:
        """Raise `AssertionError` unless every field of the info is as expected."""
        said = (info.id, info.tail, str(info.state), info.error, dict(info.attributes))
        true = (self.id, len(self.data), self.state, self.error, self.attributes)
        assert said == true, f"the info says {said}, true is {true}"
        said_too = (info.version, info.ttl, info.expires_at, info.created_at, info.updated_at)
        true_too = (self.version, self.ttl, self.expires_at, self.created_at, self.updated_at)
        assert said_too == true_too, f"the info says {said_too}, true is {true_too}"

    def compare_page(self, page: Page, offset: int, max_bytes: int) -> None:
        """Raise `AssertionError` unless the page is a right answer to this read."""
        self.compare(page.info)
        position = offset
        for number, (start, data) in enumerate(page.records):
            assert start == position, f"record {number} begins at {start}, not {position}"
            position += len(data)
            assert position in self.ends, f"record {number} ends at {position}, in another one"
            inside = [end for end in self.ends if start < end < position]
            assert not inside, f"record {number} has the ends {inside} inside"
            assert data == self.data[start:position], f"record {number} has other bytes"
        assert page.next_offset == position, f"next_offset {page.next_offset}, not {position}"
        is_too_long = position - offset > max_bytes
        assert not is_too_long or len(page.records) == 1, "more than max_bytes in the page"
        assert page.records or offset == len(self.data), "an empty page before the tail"


class Oracle:
    """The expected streams of a backend."""

    def __init__(self) -> None:
        self.streams: dict[str, OracleStream] = {}
        self._old_versions: dict[str, set[int]] = {}

    def create(
        self,
        stream_id: str,
        chunks: tuple[bytes, ...],
        state: str,
        attributes: Mapping[str, str] | None,
    ) -> OracleStream:
        stream = OracleStream(stream_id, b"", [], "streaming", dict(attributes or {}))
        stream.apply(Wish(chunks, state=state))
        self.streams[stream_id] = stream
        return stream

    def used(self, stream_id: str, version: int) -> None:
        """Raise `AssertionError` if an earlier stream of this id had the version."""
        gone = self._old_versions.setdefault(stream_id, set())
        assert version not in gone, f"version {version} belonged to an old stream"

    def old_versions(self, stream_id: str) -> list[int]:
        return sorted(self._old_versions.get(stream_id, ()))

    def end(self, stream_id: str) -> None:
        stream = self.streams.pop(stream_id)
        self._old_versions.setdefault(stream_id, set()).add(stream.version)
