"""The PostgreSQL store."""

from __future__ import annotations

import asyncio
import json
import math
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import accumulate, pairwise
from struct import unpack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from streamstores import limits as bounds
from streamstores.backends._postgres.connecting import (
    DURABILITY,
    Database,
    PoolOptions,
    parse_flag,
    split_url,
)
from streamstores.backends._postgres.notices import Notices, Polling
from streamstores.backends._postgres.schema import Statements, check_names, migrate
from streamstores.backends._postgres.sweeping import Sweeper
from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.mutations import (
    Mutation,
    changes_nothing,
    check_end_state,
    check_mutation,
    check_state,
    records_at,
    records_of,
    refuse,
)
from streamstores.store import Page, Record, State, StateLike, StreamInfo

if TYPE_CHECKING:
    from streamstores.backends._postgres.connecting import Connection, Pool, Row

__all__ = ["PostgresStreamStore"]

# A statement is made again where its snapshot is older than what refused it.
_ATTEMPTS = 20
_PAGE_BYTES = 67_108_864
_LIST_PAGE = 500
_POLLING_SECONDS = 0.05
_INDEXED_BYTES = 2_600  # a btree entry is at most a third of a page
_STATES = {state.value: state for state in State}
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})
_URL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "schema": str,
    "table_prefix": str,
    "notify": parse_flag,
    "poll_interval": float,
    "min_size": int,
    "max_size": int,
    "timeout": float,
    "command_timeout": float,
    "statement_cache_size": int,
    "durability": str,
}


class PostgresStreamStore:
    """Streams in two tables of a PostgreSQL database, for one event loop.

    Every operation is one statement: atomic, one round trip, on the database's clock. An
    acknowledged mutation survives what the server's `synchronous_commit` makes it survive;
    with `durability="process"` it survives the death of any client, and a crash of the
    server may lose those of its last moments, never part of one.

    `target` is a `postgresql://` URL, or an asyncpg pool, which stays open and gives up one
    connection for notices. `schema` (made if missing) and `table_prefix` say where the
    tables are; they are made and migrated when the store opens.

    With `notify` other processes' changes are heard of over one connection, and one that
    got lost is found within `poll_interval` (5) seconds. Without it one query every
    `poll_interval` (0.05) seconds asks for all streams that somebody watches: for poolers in
    transaction mode, which also need `statement_cache_size=0` unless they keep prepared
    statements themselves. In seconds, `timeout` is for
    connecting and for a free connection of the pool, `command_timeout` for one statement.
    """

    capabilities = frozenset({"changes", "durable", "list", "multi_process"})

    def __init__(
        self,
        target: str | Pool,
        *,
        schema: str = "public",
        table_prefix: str = "streamstores_",
        notify: bool = True,
        poll_interval: float | None = None,
        min_size: int = 1,
        max_size: int = 10,
        timeout: float = 10.0,
        command_timeout: float = 30.0,
        statement_cache_size: int | None = None,
        durability: str = "power",
        limits: Limits | None = None,
    ) -> None:
        options = PoolOptions(
            min_size, max_size, timeout, command_timeout, statement_cache_size, durability
        )
        _check_options(options, poll_interval)
        if not isinstance(target, str):
            _check_pool(target, options, notify=notify)
        names = check_names(schema, table_prefix)

        async def prepare(connection: Connection) -> None:
            await migrate(connection, names)
            sweeper.start()
            notices.start()

        self.limits = _check_limits(limits or Limits())
        self._sql = Statements(names)
        self._database = Database(target, options, prepare)
        self._sweeper = sweeper = Sweeper(self._database, self._sql)
        notices: Notices | Polling
        if notify:
            notices = Notices(self._database, names.channel)
            if poll_interval is not None:
                self.limits = replace(self.limits, poll_interval=poll_interval)
        else:
            interval = _POLLING_SECONDS if poll_interval is None else poll_interval
            notices = Polling(self._database, self._sql.changed, interval)
        self._notices = notices
        self.changes = notices.changes

    @classmethod
    def from_url(cls, url: str) -> PostgresStreamStore:
        """`postgresql://user:password@host/database?option=value&…`.

        The options are those of the constructor, and those of libpq that asyncpg knows
        (`sslmode`, `target_session_attrs`, …). Raises `InvalidRequest` for any other.
        """
        target, options = split_url(url, _URL_OPTIONS)
        return cls(target, **options)

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
        ttl = bounds.check_expiry(ttl, expires_at)
        chunks = bounds.check_chunks(chunks, self.limits)
        attributes = bounds.check_attributes(attributes, self.limits)
        arguments = (
            check_state(state).value,
            sum(map(len, chunks)),
            bounds.first_version(),
            _to_json(attributes),
            ttl,
            _storable(expires_at),
            *_joined(chunks),
        )
        for _ in range(_ATTEMPTS):
            row = await self._mutate(self._sql.create, stream_id, *arguments)
            if row is not None:
                return self._created(_info(stream_id, row), is_new=row["applied"])
        raise StoreUnavailable(f"stream {stream_id!r} is begun by too many at once")

    def _created(self, info: StreamInfo, *, is_new: bool) -> StreamInfo:
        if not is_new:
            raise StreamExists(f"stream {info.id!r} exists", info)
        self.changes.noticed(info.id)
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
        bounds.check_stream_id(stream_id, self.limits)
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        arguments = _arguments(mutation)
        for _ in range(_ATTEMPTS):
            row = await self._mutate(self._sql.append, stream_id, *arguments)
            if row is None:
                raise StreamNotFound(stream_id)
            info = _info(stream_id, row)
            if row["applied"]:
                self._notices.committed(info)
                self.changes.committed(info, records_of(mutation.chunks, info.tail))
                return info
            if changes_nothing(info, mutation):
                return info
            refuse(info, mutation)
        raise StoreUnavailable(f"stream {stream_id!r} is changed by too many at once")

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
        """As the contract says; a page has at most 64 MiB, whatever `max_bytes` says."""
        bounds.check_stream_id(stream_id, self.limits)
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        rows = await self._find(self._sql.read, stream_id, offset, min(max_bytes, _PAGE_BYTES))
        info = _info(stream_id, rows[0])
        self._notices.seen(info)
        if offset > info.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=info.tail)
        records = _records(rows, stream_id, offset)
        next_offset = records[-1].end if records else offset
        if bool(records) != (offset < info.tail) or next_offset > info.tail:
            raise CorruptData(f"stream {stream_id!r} lacks records at {offset}")
        return Page(records, next_offset, info)

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
        rows = await self._find(self._sql.info, stream_id)
        info = _info(stream_id, rows[0])
        self._notices.seen(info)
        return info

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        ttl = bounds.check_expiry(ttl, expires_at)
        row = await self._mutate(self._sql.expire, stream_id, ttl, _storable(expires_at))
        if row is None:
            raise StreamNotFound(stream_id)
        if row["ended"]:
            self._announce(stream_id)
        return _info(stream_id, row)

    async def delete(self, stream_id: str) -> None:
        """As the contract says. One statement ends the stream, a second one removes up to
        5,000 of its records; what is left of a longer one goes in the background."""
        bounds.check_stream_id(stream_id, self.limits)
        if await self._mutate(self._sql.delete, stream_id) is None:
            raise StreamNotFound(stream_id)
        self._announce(stream_id)
        await self._sweeper.reclaim_soon()

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """As the contract says; ordered by the ids' bytes, one statement for 500 streams."""
        bounds.check_prefix(prefix)
        self._database.check_open()
        if "\0" in prefix:
            return  # no id has it, and PostgreSQL takes it in no text
        # No id is longer than this run of the greatest character, so none sorts after it.
        last = prefix + "\U0010ffff" * (self.limits.stream_id_bytes // 4 + 1)
        after = ""
        while True:
            rows = await self._database.run(self._sql.list, prefix, last, after, _LIST_PAGE)
            for row in rows:
                yield _info(row["id"], row)
            if len(rows) < _LIST_PAGE:
                return
            after = rows[-1]["id"]

    async def sweep(self, *, limit: int = 1000) -> int:
        bounds.check_sweep_limit(limit)
        return await self._sweeper.sweep(limit)

    async def aclose(self) -> None:
        """As the contract says. Calls in flight get `timeout` seconds to end."""
        self.changes.close()
        await self._database.refuse()
        await self._notices.stop()
        await self._sweeper.stop()
        await self._database.close()

    async def __aenter__(self) -> PostgresStreamStore:
        await self._database.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        database = getattr(self, "_database", None)  # None: the constructor refused
        if database is None or not database.is_open:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._notices.abandon()
        self._sweeper.abandon()
        database.abandon()

    async def _find(self, sql: str, stream_id: str, *arguments: object) -> Sequence[Row]:
        rows = await self._database.run(sql, stream_id, *arguments)
        if not rows:
            raise StreamNotFound(stream_id)
        return rows

    async def _mutate(self, sql: str, stream_id: str, *arguments: object) -> Row | None:
        """The row that a mutation returns. Where it is not known whether it happened, those
        who watch the stream look."""
        try:
            rows = await self._database.run(sql, stream_id, *arguments, mutates=True)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._announce(stream_id)
            raise
        return rows[0] if rows else None

    def _announce(self, stream_id: str) -> None:
        """Tell all who watch the stream, here and elsewhere, that it ended or may have."""
        self._notices.changed(stream_id)
        self.changes.noticed(stream_id)


def _arguments(mutation: Mutation) -> tuple[object, ...]:
    return (
        mutation.size,
        mutation.at,
        mutation.version,
        None if mutation.state is None else mutation.state.value,
        None if mutation.error is None else json.dumps(mutation.error),
        None if mutation.attributes is None else _to_json(mutation.attributes),
        *_joined(mutation.chunks),
    )


def _joined(chunks: tuple[bytes, ...]) -> tuple[list[str], list[str], bytes]:
    """Where each chunk begins and how long it is, as text, and their bytes together.

    Of all arrays asyncpg knows only those of text by heart; for any other it asks the server
    what it is, with three statements on each new connection.
    """
    sizes = [len(chunk) for chunk in chunks]
    starts = [*accumulate(sizes, initial=0)][:-1]
    return [*map(str, starts)], [*map(str, sizes)], b"".join(chunks)


def _info(stream_id: str, row: Row) -> StreamInfo:
    try:
        return StreamInfo(
            stream_id,
            _STATES[row["state"]],
            row["tail"],
            row["version"],
            None if row["error"] is None else json.loads(row["error"]),
            _from_json(row["attributes"]),
            row["created_at"],
            row["ttl"],
            _aware(row["expires_at"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise CorruptData(f"the row of stream {stream_id!r} cannot be read: {exc}") from exc


def _records(rows: Sequence[Row], stream_id: str, offset: int) -> list[Record]:
    """The records of a page; the first is cut where the page begins inside it."""
    records: list[Record] = []
    end = offset
    for row in rows:
        if row["ends"] is None:
            break  # nothing after the offset
        piece = _split(row["ends"], row["data"])
        if piece[0].offset > end:
            raise CorruptData(f"stream {stream_id!r} lacks records at {end}")
        records += piece
        end = piece[-1].end
    if records and records[0].offset < offset:
        start, data = records[0]
        records[0] = Record(offset, data[offset - start :])
    return records


def _split(ends: bytes, data: bytes) -> list[Record]:
    """The records of one row: where they end in the stream, and their bytes together."""
    stops = unpack(f">{len(ends) // 8}q", ends)
    base = stops[-1] - len(data)
    cuts = pairwise((0, *(stop - base for stop in stops)) if base else (0, *stops))
    return records_at((base, *stops), [data[start:stop] for start, stop in cuts])


def _to_json(attributes: Mapping[str, str]) -> str:
    return json.dumps(dict(attributes), ensure_ascii=False) if attributes else "{}"


def _from_json(text: str) -> Mapping[str, str]:
    return _NO_ATTRIBUTES if text == "{}" else MappingProxyType(json.loads(text))


def _storable(moment: datetime | None) -> datetime | None:
    """The moment in UTC; one that no calendar holds there is the nearest that it holds."""
    if moment is None:
        return None
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError:
        nearest = datetime.max if moment.year > 1 else datetime.min
        return nearest.replace(tzinfo=timezone.utc)


def _aware(moment: datetime | None) -> datetime | None:
    """asyncpg stores the first and last moment as infinities, and reads those as naive."""
    if moment is not None and moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment


def _check_options(options: PoolOptions, poll_interval: float | None) -> None:
    if options.durability not in DURABILITY:
        raise InvalidRequest(f"durability is one of {', '.join(DURABILITY)}")
    if not 0 <= options.min_size <= options.max_size or options.max_size < 1:
        raise InvalidRequest("min_size is from 0 to max_size, and max_size at least 1")
    if (options.statement_cache_size or 0) < 0:
        raise InvalidRequest("statement_cache_size is from 0")
    for name in ("timeout", "command_timeout"):
        _check_period(getattr(options, name), name)
    if poll_interval is not None:
        _check_period(poll_interval, "poll_interval")


def _check_limits(limits: Limits) -> Limits:
    if limits.stream_id_bytes > _INDEXED_BYTES:
        raise InvalidRequest(
            f"PostgreSQL indexes at most {_INDEXED_BYTES} bytes of a stream id"
        )
    return limits


def _check_period(seconds: float, name: str) -> None:
    bounds.check_seconds(seconds, name)
    if seconds == 0 or math.isinf(seconds):
        raise InvalidRequest(f"{name} is seconds above 0, and finite, not {seconds!r}")


def _check_pool(pool: Pool, options: PoolOptions, *, notify: bool) -> None:
    if not hasattr(pool, "acquire"):
        raise InvalidRequest("target is a URL or an asyncpg pool")
    if options.durability != "power":
        raise InvalidRequest("durability of a given pool: set synchronous_commit on it")
    if notify and pool.get_max_size() < 2:
        raise InvalidRequest("notices take one connection away: give a pool of two or more")
