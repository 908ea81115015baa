"""Streams in one SQLite file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from os import PathLike, fspath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosqlite

from streamstores import limits as bounds
from streamstores.backends._sqlite import database, reading, writing
from streamstores.backends._sqlite.database import Settings
from streamstores.backends._sqlite.thread import Commit, connected, send, submit
from streamstores.backends._sqlite.watcher import FileChanges, Watcher
from streamstores.backends._sqlite.writing import Operation, Outcome, Transaction, Writer
from streamstores.changes import Bell, Changes
from streamstores.errors import InvalidRequest, StreamStoreError
from streamstores.limits import Limits
from streamstores.mutations import check_end_state, check_mutation, check_state, records_of
from streamstores.store import Page, State, StateLike, StreamInfo

__all__ = ["SQLiteStreamStore"]

T = TypeVar("T")

_BATCH = 512  # mutations in one transaction
_LIST_PAGE = 500
_SWEEP_SECONDS = 60.0


class SQLiteStreamStore:
    """Streams in one SQLite file in WAL mode; many processes of one machine may share it.

    What survives what: a mutation that returned survives the death of every process. With
    `durability="process"` (the default, `synchronous=NORMAL`) a power failure or crash of
    the operating system may lose the last mutations, never the order or the rest; with
    `"power"` (`synchronous=FULL`) it loses nothing, at the cost of a disk flush a commit.
    (https://www.sqlite.org/pragma.html#pragma_synchronous)

    Mutations that arrive while one is being committed go out together in one transaction.
    Reads run beside them, on connections of their own. What other processes commit is
    noticed by `PRAGMA data_version`, looked at every `watch_interval` seconds while
    somebody watches. In all: `readers` + 1 connections with a thread each, and one more
    while somebody watches. Every call is one hop to a thread and back.

    `busy_timeout` is how many seconds a mutation waits for another process's transaction
    before it raises `StoreUnavailable`. A file on a network file system will not do: WAL
    needs shared memory. (https://www.sqlite.org/wal.html)
    """

    capabilities = frozenset({"changes", "durable", "list", "multi_process"})

    # Here because `__del__` runs also where `__init__` refused its arguments.
    _writer: aiosqlite.Connection | None = None
    _watcher: Watcher | None = None
    _commit: Callable[[Sequence[Operation]], Sequence[Outcome]]

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        durability: str = "process",
        busy_timeout: float = 5.0,
        watch_interval: float = 0.01,
        readers: int = 2,
        limits: Limits | None = None,
    ) -> None:
        path = fspath(path)
        if not path or path == ":memory:" or path.startswith("file:"):
            raise InvalidRequest(
                f"the path of a database file is needed, not {path!r}; "
                "streams in memory are MemoryStreamStore's"
            )
        if durability not in ("process", "power"):
            raise InvalidRequest(f"durability is 'process' or 'power', not {durability!r}")
        bounds.check_seconds(busy_timeout, "busy_timeout")
        if not 0 < watch_interval <= 1:
            raise InvalidRequest(f"watch_interval is 0 to 1 second, not {watch_interval!r}")
        if readers < 1:
            raise InvalidRequest(f"readers is at least 1, not {readers!r}")
        self.limits = limits or Limits()
        self._settings = Settings(path, durability, busy_timeout)
        self._watch_interval = watch_interval
        self._reader_count = readers
        self.changes = Changes(self._on_watched)
        self._readers: list[aiosqlite.Connection] = []
        self._next_reader = 0
        self._opening: asyncio.Task[None] | None = None
        self._is_closed = False
        self._queue: list[_Queued] = []
        self._in_flight: Commit | None = None
        self._rubbish = Bell()
        self._housekeeper: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> SQLiteStreamStore:
        """`sqlite:///relative.db` or `sqlite:////absolute.db`, with the options
        `durability`, `busy_timeout`, `watch_interval` and `readers`."""
        parts = urlsplit(url)
        if parts.netloc or not parts.path.strip("/"):
            raise InvalidRequest(
                f"sqlite:///relative.db or sqlite:////absolute.db, not {url!r}"
            )
        options: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            options[name] = _option(name, value)
        return cls(unquote(parts.path[1:]), **options)

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        create = partial(
            writing.create,
            stream_id=stream_id,
            ttl=bounds.check_expiry(ttl, expires_at),
            expires_at=_microseconds(expires_at),
            chunks=bounds.check_chunks(chunks, self.limits),
            attributes=bounds.check_attributes(attributes, self.limits),
            state=check_state(state),
        )
        return await self._mutate(create, then=self._has_begun)

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
        append = partial(writing.append, stream_id=stream_id, mutation=mutation)
        return await self._mutate(append, then=partial(self._has_grown, mutation.chunks))

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        return await self.append(
            stream_id, state=check_end_state(state), error=error, version=version
        )

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        bounds.check_stream_id(stream_id, self.limits)
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        return await self._ask(reading.read, stream_id, offset, max_bytes)

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        bounds.check_seconds(timeout, "timeout")
        return await self.changes.wait(
            self.info,
            stream_id,
            version=bounds.check_version(version),
            timeout=timeout,
            poll_interval=self.limits.poll_interval,
        )

    async def info(self, stream_id: str) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        return await self._ask(reading.info, stream_id)

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        expire = partial(
            writing.expire,
            stream_id=stream_id,
            ttl=bounds.check_expiry(ttl, expires_at),
            expires_at=_microseconds(expires_at),
        )
        return await self._mutate(expire, then=self._has_new_end)

    async def delete(self, stream_id: str) -> None:
        bounds.check_stream_id(stream_id, self.limits)
        delete = partial(writing.delete, stream_id=stream_id)
        await self._mutate(delete, then=self._has_ended)

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        bounds.check_prefix(prefix)
        after: str | None = ""
        while after is not None:
            page, after = await self._ask(reading.list_page, prefix, after, _LIST_PAGE)
            for info in page:
                yield info

    async def sweep(self, *, limit: int = 1000) -> int:
        bounds.check_sweep_limit(limit)
        swept = await self._mutate(partial(writing.sweep, limit=limit))
        while await self._mutate(writing.purge):
            pass
        return swept

    async def aclose(self) -> None:
        self._is_closed = True
        self.changes.close()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        while self._in_flight is not None:
            await asyncio.wait([self._in_flight])
        await self._disconnect()

    async def __aenter__(self) -> SQLiteStreamStore:
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        if self._writer is not None:
            message = f"unclosed SQLiteStreamStore({self._settings.path!r})"
            warnings.warn(message, ResourceWarning, stacklevel=1)

    async def _open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        if self._writer is not None:
            return
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._connect())
        # A caller that is cancelled leaves the opening to those who come after it.
        await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        try:
            with _translate_errors(self._settings.path):
                writer = await connected(self._settings)
                self._readers.append(writer)  # so that a failure below closes it
                await submit(writer, database.migrate)
                self._commit = (await submit(writer, Writer)).commit
                for _ in range(self._reader_count):
                    self._readers.append(await connected(self._settings))
        except BaseException:
            await self._disconnect()
            raise
        finally:
            self._opening = None
        self._watcher = Watcher(
            self._settings, self._watch_interval, weakref.WeakMethod(self._on_changes)
        )
        self._watcher.set_watched(bool(self.changes.subscribed_ids))
        self._housekeeper = asyncio.create_task(_keep_house(weakref.ref(self), self._rubbish))
        self._writer = self._readers.pop(0)

    async def _disconnect(self) -> None:
        if self._watcher is not None:
            await self._watcher.aclose()
            self._watcher = None
        connections = [*self._readers, *([self._writer] if self._writer else [])]
        self._readers, self._writer = [], None
        for connection in connections:
            await connection.close()

    async def _ask(self, question: Callable[..., T], *args: Any) -> T:
        """Run a function that only reads, on the next reading connection."""
        await self._open()
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        with _translate_errors(self._settings.path):
            return await submit(self._readers[self._next_reader], question, *args)

    async def _mutate(
        self,
        operation: Callable[[Transaction], T],
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Run an operation in the next transaction; `then` hears of what it committed, also
        where the caller was cancelled meanwhile."""
        if self._writer is None or self._is_closed:
            await self._open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Queued(operation, then, future))
        if self._in_flight is None:
            self._commit_queue()
        return await future

    def _commit_queue(self) -> None:
        """Group commit: hand what is queued to the writing thread, as one transaction. What
        is queued meanwhile goes out with the next one, when this one is settled."""
        batch = [each for each in self._queue[:_BATCH] if not each.future.done()]
        del self._queue[:_BATCH]
        assert self._writer is not None
        self._in_flight = Commit(partial(self._settle, batch))
        operations = [queued.operation for queued in batch]
        send(self._writer, self._in_flight, partial(self._commit, operations))

    def _settle(
        self, batch: Sequence[_Queued], outcomes: Sequence[Outcome] | BaseException
    ) -> None:
        self._in_flight = None
        if isinstance(outcomes, BaseException):
            outcomes = [self._translated(outcomes)] * len(batch)
        for queued, outcome in zip(batch, outcomes, strict=True):
            queued.settle(outcome)
        if self._queue:
            self._commit_queue()

    def _translated(self, raised: BaseException) -> Exception:
        try:
            with _translate_errors(self._settings.path):
                raise raised
        except Exception as exc:
            return exc

    def _has_grown(self, chunks: tuple[bytes, ...], info: StreamInfo) -> None:
        self.changes.committed(info, records_of(chunks, info.tail))

    def _has_begun(self, info: StreamInfo) -> None:
        self.changes.noticed(info.id)  # those of a namesake that expired

    def _has_ended(self, info: StreamInfo) -> None:
        self.changes.noticed(info.id)
        self._rubbish.ring()

    def _has_new_end(self, info: StreamInfo) -> None:
        if info.expires_at is not None and info.expires_at <= datetime.now(timezone.utc):
            self._has_ended(info)

    def _on_watched(self, stream_id: str, watched: bool) -> None:
        if self._watcher is not None:
            self._watcher.set_watched(watched or bool(self.changes.subscribed_ids))

    def _on_changes(self, changes: FileChanges) -> None:
        if changes.may_have_ended:
            self.changes.noticed_all()
        for stream_id, version in changes.versions:
            self.changes.noticed(stream_id, version)


class _Queued(NamedTuple):
    """A mutation on its way to a transaction, and who waits for it."""

    operation: Operation
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]

    def settle(self, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            if not self.future.done():
                self.future.set_exception(outcome)
            return
        if self.then is not None:
            self.then(outcome)
        if not self.future.done():
            self.future.set_result(outcome)


async def _keep_house(ref: weakref.ref[SQLiteStreamStore], rubbish: Bell) -> None:
    """Give back the storage of what has ended: when told to, and about every minute."""
    while True:
        await rubbish.wait(_SWEEP_SECONDS * random.uniform(0.8, 1.2))
        store = ref()
        if store is None:
            return
        with suppress(StreamStoreError):  # busy or full now; there is a next time
            while await store.sweep():
                pass
        del store


@contextmanager
def _translate_errors(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise database.translated(exc, path) from exc


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else bounds.to_microseconds(moment)


def _option(name: str, value: str) -> Any:
    if name == "durability":
        return value
    convert = {"busy_timeout": float, "watch_interval": float, "readers": int}.get(name)
    if convert is None:
        raise InvalidRequest(f"sqlite:// has no option {name!r}")
    try:
        return convert(value)
    except ValueError as exc:
        raise InvalidRequest(f"the option {name} is a number, not {value!r}") from exc
