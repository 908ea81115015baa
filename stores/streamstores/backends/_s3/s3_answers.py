"""What S3 answers, in the terms of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FOUND = "found"
WRITTEN = "written"
MISSING = "missing"
UNCHANGED = "unchanged"
REFUSED = "refused"


class ObjectAnswer(NamedTuple):
    """An answer about an object. Times are seconds since 1970 on S3's clock."""

    status: str
    date: float
    etag: str = ""
    modified: float = 0.0
    body: bytes = b""
    in_doubt: bool = False
    """Whether an earlier try of this change may have been applied, so that a refusal or a
    missing object may be its result."""

    @classmethod
    def found(cls, etag: str, date: float) -> ObjectAnswer:
        """An object that was written just now."""
        return cls(FOUND, date, etag)

    @property
    def is_found(self) -> bool:
        return self.status == FOUND

    @property
    def is_written(self) -> bool:
        return self.status == WRITTEN

    @property
    def is_missing(self) -> bool:
        return self.status == MISSING

    @property
    def is_unchanged(self) -> bool:
        """Whether the object still has the ETag that the request named."""
        return self.status == UNCHANGED

    @property
    def is_refused(self) -> bool:
        """Whether the condition of a PUT or a DELETE did not hold."""
        return self.status == REFUSED


class KeyListing(NamedTuple):
    """One page of keys, in the order of their bytes."""

    date: float
    keys: Sequence[str]
    modified: Sequence[float]
    folders: Sequence[str]
    next_token: str | None
    """None if this is the last page."""

    @property
    def names(self) -> list[str]:
        """Keys and folders together, in the order in which S3 counts them."""
        return sorted([*self.keys, *self.folders]) if self.folders else list(self.keys)
