"""Notices that are still to be sent, and their form on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

PAYLOAD_BYTES = 7_000  # NOTIFY takes less than 8,000
MAX_STREAMS = 10_000

_EVERY_STREAM = ""  # no stream has an empty id
# Not `isdigit`: any role may NOTIFY, and `int` raises for "²" and for thousands of digits.
_VERSION = re.compile("[0-9]{1,19}")


class Outbox:
    """For each stream that changed, the version it reached, or None if it may be gone.

    However fast a stream grows, it has one entry. With more than `MAX_STREAMS` streams the
    outbox says only that any stream may have changed.
    """

    def __init__(self) -> None:
        self._versions: dict[str, int | None] = {}

    def __bool__(self) -> bool:
        return bool(self._versions)

    def grew(self, stream_id: str, version: int) -> None:
        # A stream that may be gone stays so until that is sent: a namesake's version says
        # nothing to those who know the old stream.
        if self._versions.get(stream_id, 0) is not None:
            self._post(stream_id, version)

    def may_be_gone(self, stream_id: str) -> None:
        self._post(stream_id, None)

    def _post(self, stream_id: str, version: int | None) -> None:
        if len(self._versions) >= MAX_STREAMS and stream_id not in self._versions:
            self._versions = {_EVERY_STREAM: None}
        self._versions[stream_id] = version

    def take(self) -> dict[str, int | None]:
        """All of it, for one sending; `put_back` if that fails."""
        taken, self._versions = self._versions, {}
        return taken

    def put_back(self, taken: Mapping[str, int | None]) -> None:
        """Return what could not be sent; what was posted meanwhile is newer."""
        self._versions = {**taken, **self._versions}


def payloads_of(origin: str, versions: Mapping[str, int | None]) -> Iterator[str]:
    """The payloads of as few notices as possible.

    The first line is the sender, and each other line `<version> <id>`: ids contain no control
    characters. A missing version means that the stream may be gone.
    """
    lines, size = [origin], 0
    for stream_id, version in versions.items():
        line = f"{version or ''} {stream_id}"
        # In bytes, because the server's bound is, and an id may have four bytes a character.
        size += len(line.encode()) + 1
        if size > PAYLOAD_BYTES:
            yield "\n".join(lines)
            lines, size = [origin], len(line.encode()) + 1
        lines.append(line)
    yield "\n".join(lines)


def parse_payload(payload: str) -> tuple[str, list[tuple[str | None, int | None]]]:
    """The sender, and (id, version) for each line; an id of None stands for every stream."""
    origin, *lines = payload.split("\n")
    changes: list[tuple[str | None, int | None]] = []
    for line in lines:
        version, _, stream_id = line.partition(" ")
        reached = int(version) if _VERSION.fullmatch(version) else None
        changes.append((None if stream_id == _EVERY_STREAM else stream_id, reached))
    return origin, changes
