"""A folder of exported streams: a file for each, that is there whole or not at all.

A file has the bytes of its stream, a line feed, and a line of JSON: the fields of the info,
`format`, the `sizes` of the records, and the `sha256` of the bytes. It gets its name when it is
on the disk as a whole, so an interruption leaves no half file under that name.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

from streamstores.cli.store_session import info_as_json
from streamstores.cli.transfers import Outcome, Source, Transferred
from streamstores.errors import CorruptData, StreamNotFound
from streamstores.store import Page, Record, State, StreamInfo

__all__ = ["ArchiveFolder", "ArchivedStream", "StreamExport", "archive_name"]

_FORMAT = 1
_SUFFIX = ".stream"
_PAGE_BYTES = 4_194_304


class ArchivedStream(NamedTuple):
    """What the last line of a file says."""

    path: Path
    info: StreamInfo
    ends: list[int]
    """The offsets at which its records end."""
    sha256: str


def archive_name(stream_id: str) -> str:
    """The file name of a stream: the readable part of its id, and a hash that tells it apart.

    Ids are longer than file names may be, and some file systems ignore case.
    """
    readable = quote(stream_id, safe="")[:80]
    return f"{readable}-{hashlib.sha256(stream_id.encode()).hexdigest()[:16]}{_SUFFIX}"


class StreamExport:
    """Writes streams of a source into a folder."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        *,
        on_bytes: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._on_bytes = on_bytes

    async def bring(self, stream_id: str) -> Transferred:
        """Write the stream, as it is now, and read the file again to compare.

        A file of the same stream in the same version is compared with its hash and kept.
        Raises `StreamNotFound`, `OSError`, and `CorruptData` if the file does not have what
        was written.
        """
        self._make_folder()
        path = self._folder / archive_name(stream_id)
        info = await self._source.info(stream_id)
        if _is_current(path, info):
            self._on_bytes(info.tail)
            return Transferred(Outcome.UNCHANGED, info, 0)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                info = await self._write(file, stream_id)
                file.flush()
                os.fsync(file.fileno())
            _check_bytes(_last_line(part))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return Transferred(Outcome.COPIED, info, info.tail)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    async def _write(self, file: BinaryIO, stream_id: str) -> StreamInfo:
        """Write the bytes and the last line; the info of that moment."""
        first = page = await self._source.read(stream_id, max_bytes=_PAGE_BYTES)
        digest, sizes = hashlib.sha256(), [len(record.data) for record in page.records]
        while True:
            for record in page.records:
                digest.update(record.data)
                file.write(record.data)
                self._on_bytes(len(record.data))
            if page.next_offset == page.info.tail:
                break
            page = await self._source.read(stream_id, page.next_offset, max_bytes=_PAGE_BYTES)
            if page.info.created_at != first.info.created_at:
                raise StreamNotFound(stream_id)
            sizes += [len(record.data) for record in page.records]
        fields = {"format": _FORMAT, **info_as_json(page.info)}
        line = {**fields, "sizes": sizes, "sha256": digest.hexdigest()}
        file.write(f"\n{json.dumps(line)}\n".encode())
        return page.info


class ArchiveFolder:
    """The streams of a folder, as the source of a transfer."""

    def __init__(self, folder: Path) -> None:
        self.damaged: list[tuple[str, CorruptData]] = []
        """The files that have no readable last line, and why."""
        self._streams: dict[str, ArchivedStream] = {}
        self._checked: set[str] = set()
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                archived = _last_line(path)
            except CorruptData as exc:
                self.damaged.append((path.name, exc))
            else:
                if not _has_expired(archived.info):
                    self._streams[archived.info.id] = archived

    def __iter__(self) -> Iterator[StreamInfo]:
        return (archived.info for archived in self._streams.values())

    async def info(self, stream_id: str) -> StreamInfo:
        """Raises `StreamNotFound`, and `CorruptData` if the file does not match its hash."""
        return self._checked_stream(stream_id).info

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = _PAGE_BYTES
    ) -> Page:
        """As a store's `read`."""
        archived = self._checked_stream(stream_id)
        first = bisect_right(archived.ends, offset)
        records: list[Record] = []
        with archived.path.open("rb") as file:
            file.seek(offset)
            for end in archived.ends[first:]:
                if records and end - records[0].offset > max_bytes:
                    break
                records.append(Record(offset, file.read(end - offset)))
                offset = end
        return Page(records, offset, archived.info)

    def _checked_stream(self, stream_id: str) -> ArchivedStream:
        if stream_id not in self._streams:
            raise StreamNotFound(stream_id)
        archived = self._streams[stream_id]
        if stream_id not in self._checked:
            _check_bytes(archived)
            self._checked.add(stream_id)
        return archived


def _has_expired(info: StreamInfo) -> bool:
    """Whether an absolute end has passed; a ttl begins anew."""
    if info.ttl is not None or info.expires_at is None:
        return False
    return info.expires_at <= datetime.now(timezone.utc)


def _is_current(path: Path, info: StreamInfo) -> bool:
    try:
        archived = _last_line(path)
        _check_bytes(archived)
    except (CorruptData, FileNotFoundError):
        return False
    return archived.info == info


def _last_line(path: Path) -> ArchivedStream:
    """Raises `CorruptData` if the file does not end with a line that an export has written."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            begin = text.rfind(b"\n", 0, len(text) - 1)
            if text[-1:] != b"\n":
                raise ValueError("its last line has no end")
            fields = json.loads(text[begin + 1 :])
        archived = _parsed(path, fields)
        if begin != archived.info.tail or archived.ends[-1:] not in ([], [begin]):
            raise ValueError("it has another length")
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptData(f"{path.name} is not a whole exported stream: {exc}") from exc
    return archived


def _parsed(path: Path, fields: dict[str, Any]) -> ArchivedStream:
    if fields["format"] != _FORMAT:
        raise ValueError(f"format {fields['format']!r} is not known to this version")
    moments = {
        name: None if fields[name] is None else datetime.fromisoformat(fields[name])
        for name in ("created_at", "updated_at", "expires_at")
    }
    given = {name: fields[name] for name in StreamInfo._fields}
    values: dict[str, Any] = {**given, **moments, "state": State(fields["state"])}
    sizes: list[int] = fields["sizes"]
    return ArchivedStream(path, StreamInfo(**values), list(accumulate(sizes)), fields["sha256"])


def _check_bytes(archived: ArchivedStream) -> None:
    """Raises `CorruptData` if the bytes do not have the hash that the last line gives."""
    digest, rest = hashlib.sha256(), archived.info.tail
    with archived.path.open("rb") as file:
        while rest and (data := file.read(min(rest, _PAGE_BYTES))):
            digest.update(data)
            rest -= len(data)
    if digest.hexdigest() != archived.sha256:
        raise CorruptData(f"{archived.path.name} does not have the bytes that were exported")
