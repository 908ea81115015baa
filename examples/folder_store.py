"""A complete stream store in one small file: each stream is a file of a folder.

It is the example of `docs/writing-a-store.md`, and passes the whole conformance suite. It is
simple, not fast: each mutation writes the stream's file anew, on the event loop's own thread,
and changes by other processes are found by polling.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from streamstores import building
from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.store import Page, State, StateLike, StreamInfo


class FolderStreamStore(building.CommonMethods):
    """Streams as files of one folder, for the processes of one machine.

    A mutation that returned survives the death of every process; a power failure may lose the
    last ones. `folder` is made if it is missing; nothing else should be in it.
    """

    capabilities = frozenset({"changes", "durable", "list", "multi_process"})

    def __init__(self, folder: str | os.PathLike[str], *, limits: Limits | None = None) -> None:
        self._folder = Path(folder)
        # Nothing tells of changes by other processes, so waiters look again after this time.
        self.limits = limits or Limits(poll_interval=0.05)
        self.changes = building.Changes()
        self._is_closed = False

    @classmethod
    def from_url(cls, url: str) -> FolderStreamStore:
        """`folder:///absolute/path?poll_interval=0.05`."""
        parsed = building.split_store_url(
            url, schemes=["folder"], options={"poll_interval": building.seconds}
        )
        if parsed.parts.netloc or not parsed.path.strip("/"):
            raise InvalidRequest(f"folder:///absolute/path, not {building.redacted(url)}")
        poll_interval = parsed.options.get("poll_interval", 0.05)
        return cls(parsed.path, limits=Limits(poll_interval=poll_interval))

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        creation = building.check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )
        with self._lock():
            with suppress(StreamNotFound):
                existing, _ = self._load(stream_id)
                raise StreamExists(f"stream {stream_id!r} exists", existing)
            info = creation.begun(_now())
            self._save(info, creation.chunks)
        self.changes.noticed(stream_id)
        return info

    async def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        mutation = building.check_mutation(
            self.limits, chunks, at, version, state, error, attributes
        )
        with self._lock():
            info, stored = self._load(stream_id)
            if building.changes_nothing(info, mutation):
                return info
            building.refuse(info, mutation)
            info = building.mutated(info, mutation, _now())
            self._save(info, [*stored, *mutation.chunks])
        self.changes.committed(info, building.records_of(mutation.chunks, info.tail))
        return info

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        offset = building.check_offset(offset)
        building.check_max_bytes(max_bytes)
        with self._lock():
            info, chunks = self._load(stream_id)
        records = building.records_of(tuple(chunks), info.tail)
        return building.page_of(info, records, offset, max_bytes)

    async def info(self, stream_id: str) -> StreamInfo:
        with self._lock():
            return self._load(stream_id)[0]

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        ttl = building.check_expiry(ttl, expires_at)
        with self._lock():
            info, chunks = self._load(stream_id)
            info = building.with_expiry(info, ttl, building.in_utc(expires_at), _now())
            self._save(info, chunks)
        if building.has_expired(info, _now()):
            self.changes.noticed(stream_id)
        return info

    async def delete(self, stream_id: str) -> None:
        with self._lock():
            self._load(stream_id)
            self._path(stream_id).unlink()
        self.changes.noticed(stream_id)

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        building.check_prefix(prefix)
        with self._lock():
            infos = [_decode(path)[0] for path in self._folder.glob("*.stream")]
        for info in infos:
            if info.id.startswith(prefix) and not building.has_expired(info, _now()):
                yield info

    async def sweep(self, *, limit: int = 1000) -> int:
        building.check_sweep_limit(limit)
        swept = 0
        with self._lock():
            for path in self._folder.glob("*.stream"):
                if swept < limit and building.has_expired(_decode(path)[0], _now()):
                    path.unlink()
                    swept += 1
        return swept

    async def aclose(self) -> None:
        self._is_closed = True
        self.changes.close()

    async def __aenter__(self) -> FolderStreamStore:
        await self.sweep()  # a store for production sweeps now and then, too
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<FolderStreamStore {self._folder}>"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep all processes out: a file is read, judged and replaced in one step.

        Inside there is no `await`, so a cancelled call happened wholly or not at all. The file
        system fails before `os.replace` or not at all, so nothing was applied if it does.
        """
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._folder / "lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as exc:
            raise StoreUnavailable(f"{self._folder}: {exc}") from exc

    def _path(self, stream_id: str) -> Path:
        """An id may contain anything, and be longer than the name of a file."""
        building.check_stream_id(stream_id, self.limits)
        return self._folder / f"{sha256(stream_id.encode()).hexdigest()}.stream"

    def _load(self, stream_id: str) -> tuple[StreamInfo, Sequence[bytes]]:
        try:
            info, chunks = _decode(self._path(stream_id))
        except FileNotFoundError:
            raise StreamNotFound(stream_id) from None
        if building.has_expired(info, _now()):
            raise StreamNotFound(stream_id)
        return info, chunks

    def _save(self, info: StreamInfo, chunks: Sequence[bytes]) -> None:
        fields = info._asdict() | {
            "attributes": dict(info.attributes),
            "created_at": building.to_microseconds(info.created_at),
            "updated_at": building.to_microseconds(info.updated_at),
            "expires_at": info.expires_at and building.to_microseconds(info.expires_at),
            "lengths": [len(chunk) for chunk in chunks],
        }
        new = self._folder / "new"
        new.write_bytes(b"\n".join((json.dumps(fields).encode(), b"".join(chunks))))
        os.replace(new, self._path(info.id))  # atomic: no reader sees half a file


def _decode(path: Path) -> tuple[StreamInfo, Sequence[bytes]]:
    """The info, which the first line tells, and the chunks, whose bytes follow it."""
    line, _, data = path.read_bytes().partition(b"\n")
    try:
        fields = json.loads(line)
        lengths, stream_id = fields.pop("lengths"), fields.pop("id")
        chunks: list[bytes] = []
        for length in lengths:
            chunks.append(data[:length])
            data = data[length:]
        return building.stored_info(stream_id, **fields), chunks
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptData(f"{path}: no store wrote this") from exc


def _now() -> datetime:
    """The clock that all processes of one machine share."""
    return datetime.now(timezone.utc)
