"""The SQLite store: streams in one file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from os import PathLike
from typing import Any, TypeVar

from streamstores import limits as bounds
from streamstores import observation
from streamstores.backends._fork import ForkGuard
from streamstores.backends._sqlite import operations, queries
from streamstores.backends._sqlite.connections import Connections
from streamstores.backends._sqlite.database import (
    MAX_BUSY_TIMEOUT_SECONDS,
    DatabaseOptions,
    translate_errors,
    warn_of_wal_reset_bug,
)
from streamstores.backends._sqlite.sweeper import SQLiteSweeper
from streamstores.backends._sqlite.transactions import Transaction
from streamstores.backends._sqlite.watcher import FileChanges, Watcher
from streamstores.changes import Changes
from streamstores.errors import InvalidRequest, StoreUnavailable
from streamstores.limits import Limits
from streamstores.methods import CommonMethods
from streamstores.mutations import check_creation, check_mutation, has_expired, records_of
from streamstores.store import Page, State, StateLike, StreamInfo
from streamstores.url_options import (
    count,
    merged,
    one_of,
    redacted,
    seconds,
    split_store_url,
)

__all__ = ["SQLiteStreamStore"]

T = TypeVar("T")

_DURABILITY = ("process", "power")
_DEFAULTS: dict[str, Any] = {
    "durability": "process",
    "busy_timeout": 5.0,
    "watch_interval": 0.01,
    "readers": 2,
}
_TYPES: dict[str, Callable[[str], Any]] = {
    "durability": one_of(*_DURABILITY),
    "busy_timeout": seconds,
    "watch_interval": seconds,
    "readers": count,
}
_LIST_PAGE = 500


class SQLiteStreamStore(CommonMethods):
    """Streams in one SQLite file in WAL mode; many processes of one machine may share it.

    `path` is the path of the file, or a URL as `from_url` takes it. It is made if missing.

    A mutation that returned survives the death of every process. With `durability="process"`
    (the default, `synchronous=NORMAL`) a power failure or a crash of the operating system may
    lose the last mutations, but never their order, and none in part. With `"power"`
    (`synchronous=FULL`) it loses nothing, at the cost of a disk flush for each commit.
    (https://www.sqlite.org/pragma.html#pragma_synchronous)

    Mutations that arrive during a commit go out together in the next transaction.
    Reads run beside them, on connections of their own. Every call is one hop to a thread and
    back. What other processes commit is noticed by `PRAGMA data_version`, looked at every
    `watch_interval` (0.01) seconds while a stream is watched. There are `readers` (2) + 1
    connections with a thread each, and one more while a stream is watched.

    `busy_timeout` (5) is how many seconds a mutation waits for another process's transaction
    before it raises `StoreUnavailable`. The file cannot be on a network file system, because
    WAL mode needs shared memory. (https://www.sqlite.org/wal.html)
    """

    capabilities: frozenset[str] = frozenset({"changes", "durable", "list", "multi_process"})

    # Class attributes, because `__del__` runs even if `__init__` refuses its arguments.
    _connections: Connections | None = None
    _watcher: Watcher | None = None
    _sweeper: SQLiteSweeper | None = None

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        durability: str | None = None,
        busy_timeout: float | None = None,
        watch_interval: float | None = None,
        readers: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        path = os.fspath(path)
        url_options: dict[str, Any] = {}
        if isinstance(path, str) and path.startswith("sqlite://"):
            path, url_options = _split_url(path)
        arguments = {
            "durability": durability,
            "busy_timeout": busy_timeout,
            "watch_interval": watch_interval,
            "readers": readers,
        }
        settings = merged(_DEFAULTS, url_options, arguments)
        _check_path(path)
        _check_settings(settings)
        self.limits: Limits = limits or Limits()
        self.changes: Changes = Changes(self._on_interest)
        self.changes.look_every(self.limits.poll_interval, self._changed_streams)
        self._options = DatabaseOptions(
            # Connections are opened at different times, between which a process may chdir.
            os.path.join(os.getcwd(), path),  # "..", symlinks stay
            settings["durability"],
            min(settings["busy_timeout"], MAX_BUSY_TIMEOUT_SECONDS),
        )
        self._watch_interval: float = settings["watch_interval"]
        self._reader_count: int = settings["readers"]
        self._fork_guard = ForkGuard()
        self._opening: asyncio.Task[None] | None = None
        self._is_closed = False

    @classmethod
    def from_url(cls, url: str) -> SQLiteStreamStore:
        """`sqlite:///relative.db` or `sqlite:////absolute.db`, with the options
        `durability`, `busy_timeout`, `watch_interval` and `readers`.

        Characters such as `#`, `?` and `%` in the path are percent-encoded. Raises
        `InvalidRequest` for any other option.
        """
        path, url_options = _split_url(url)
        return cls(path, **url_options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._options.path!r}>"

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        creation = check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )
        return await self._mutate(
            partial(operations.create, creation=creation), then=self._on_created
        )

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
        bounds.check_stream_id(stream_id, self.limits)
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        append = partial(operations.append, stream_id=stream_id, mutation=mutation)
        return await self._mutate(append, then=partial(self._on_appended, mutation.chunks))

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """As the contract says. A page has at most 16,384 records."""
        bounds.check_stream_id(stream_id, self.limits)
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        return await self._read(queries.read, stream_id, offset, max_bytes)

    async def info(self, stream_id: str) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        return await self._read(queries.info, stream_id)

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        expire = partial(
            operations.expire,
            stream_id=stream_id,
            ttl=bounds.check_expiry(ttl, expires_at),
            expires_at=bounds.in_utc(expires_at),
        )
        return await self._mutate(expire, then=self._on_new_expiry)

    async def delete(self, stream_id: str) -> None:
        """As the contract says. The records are swept in the background."""
        bounds.check_stream_id(stream_id, self.limits)
        delete = partial(operations.delete, stream_id=stream_id)
        await self._mutate(delete, then=self._on_gone)

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """As the contract says, in the order of the ids; one query for 500 streams."""
        bounds.check_prefix(prefix)
        after: str | None = ""
        while after is not None:
            page, after = await self._read(queries.list_page, prefix, after, _LIST_PAGE)
            for info in page:
                yield info

    async def sweep(self, *, limit: int = 1000) -> int:
        """As the contract says. A transaction for streams, and another for 5,000 records."""
        bounds.check_sweep_limit(limit)
        swept = await self._mutate(partial(operations.sweep_streams, limit=limit))
        while await self._mutate(operations.sweep_records):
            pass
        if observation.observer is not None:
            observation.observer.swept("sqlite", swept)
        return swept

    async def aclose(self) -> None:
        """As the contract says. Mutations that have been called are committed first."""
        self._is_closed = True
        self.changes.close()
        if self._fork_guard.is_inherited:
            return  # the threads are those of the process that forked this one
        if self._sweeper is not None:
            self._sweeper.stop()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        # The watcher first: it reports to this loop, and its connection keeps the WAL alive.
        if self._watcher is not None:
            await self._watcher.aclose()
        if self._connections is not None:
            await self._connections.commits.drain()
            connections, self._connections = self._connections, None
            await connections.close()

    async def __aenter__(self) -> SQLiteStreamStore:
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._connections is None or self._fork_guard.is_inherited:
            return
        if self._watcher is not None:
            self._watcher.stop()
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    async def _open(self) -> Connections:
        """The connections; opens them at the first call. Raises if the store is closed."""
        self._fork_guard.check()
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        if self._connections is None:
            if self._opening is None:
                self._fork_guard.opened()
                self._opening = asyncio.ensure_future(self._connect())
                self._opening.add_done_callback(self._opened)
            # A caller that is cancelled leaves the opening to those who come after it.
            await asyncio.shield(self._opening)
            if self._connections is None or self._is_closed:
                raise StoreUnavailable("the store was closed")
        return self._connections

    async def _connect(self) -> None:
        warn_of_wal_reset_bug()
        self._connections = await Connections.open(self._options, self._reader_count)
        self._watcher = Watcher(
            self._options, self._watch_interval, weakref.WeakMethod(self._on_file_changes)
        )
        # Streams may be watched before the file is open, when there was no watcher to tell.
        self._watcher.set_watched(bool(self.changes.subscribed_ids))
        if not self._is_closed:
            self._sweeper = SQLiteSweeper(self)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # retrieved, even if every caller has been cancelled

    async def _changed_streams(self, known: Mapping[str, int]) -> dict[str, int | None]:
        return await self._read(queries.changed_streams, known)

    async def _read(self, query: Callable[..., T], *args: Any) -> T:
        connections = await self._open()
        with translate_errors(self._options.path):
            return await connections.read(query, *args)

    async def _mutate(
        self,
        operation: Callable[[Transaction], T],
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Run an operation in the next transaction; `then` hears of what it committed, even if
        the caller has been cancelled."""
        connections = self._connections
        if connections is None or self._is_closed or self._fork_guard.is_inherited:
            connections = await self._open()
        return await connections.commits.add(operation, then)

    def _on_created(self, info: StreamInfo) -> None:
        self.changes.noticed(info.id)  # for those who watch a namesake that expired

    def _on_appended(self, chunks: tuple[bytes, ...], info: StreamInfo) -> None:
        self.changes.committed(info, records_of(chunks, info.tail))

    def _on_gone(self, info: StreamInfo) -> None:
        self.changes.noticed(info.id)
        if self._sweeper is not None:
            self._sweeper.sweep_soon()

    def _on_new_expiry(self, info: StreamInfo) -> None:
        if has_expired(info, datetime.now(timezone.utc)):
            self._on_gone(info)

    def _on_interest(self, stream_id: str, watched: bool) -> None:
        if self._watcher is not None:
            self._watcher.set_watched(watched or bool(self.changes.subscribed_ids))

    def _on_file_changes(self, changes: FileChanges) -> None:
        if changes.may_have_ended:
            self.changes.noticed_all()
        for stream_id, version in changes.versions:
            self.changes.noticed(stream_id, version)


def _split_url(url: str) -> tuple[str, dict[str, Any]]:
    """The path of the file, and the options."""
    parsed = split_store_url(url, schemes=("sqlite",), options=_TYPES)
    if parsed.parts.netloc or not parsed.path.strip("/"):
        raise InvalidRequest(
            f"sqlite:///relative.db or sqlite:////absolute.db, not {redacted(url)}"
        )
    return parsed.path[1:], parsed.options


def _check_path(path: str) -> None:
    if not isinstance(path, str):
        raise InvalidRequest(f"a path is a str, not {type(path).__name__}")
    if not path or path == ":memory:" or path.startswith("file:"):
        raise InvalidRequest(
            f"the path of a database file is needed, not {path!r}; "
            "MemoryStreamStore keeps streams in memory"
        )
    if "\0" in path:
        raise InvalidRequest("the path of a file contains no NUL")


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise `InvalidRequest` unless each setting is in its bounds."""
    if settings["durability"] not in _DURABILITY:
        raise InvalidRequest(
            f"durability is 'process' or 'power', not {settings['durability']!r}"
        )
    bounds.check_seconds(settings["busy_timeout"], "busy_timeout")
    bounds.check_seconds(settings["watch_interval"], "watch_interval")
    if not 0 < settings["watch_interval"] <= 1:
        raise InvalidRequest(
            f"watch_interval is above 0 and at most 1 second, not "
            f"{settings['watch_interval']!r}"
        )
    if settings["readers"] < 1:
        raise InvalidRequest(f"readers is at least 1, not {settings['readers']!r}")
