"""The PostgreSQL store."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from streamstores import limits as bounds
from streamstores.backends._postgres import options
from streamstores.backends._postgres.append_groups import AppendGroups
from streamstores.backends._postgres.connections import Database
from streamstores.backends._postgres.notices import Notices
from streamstores.backends._postgres.poller import (
    POLL_INTERVAL_SECONDS,
    ChangedStreams,
    Polling,
)
from streamstores.backends._postgres.rows import (
    append_arguments,
    create_arguments,
    page_records,
    stream_info,
)
from streamstores.backends._postgres.schema import Statements, check_names, migrate
from streamstores.backends._postgres.sweeper import PostgresSweeper
from streamstores.changes import Changes
from streamstores.errors import (
    CorruptData,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.methods import CommonMethods
from streamstores.mutations import (
    changes_nothing,
    check_creation,
    check_mutation,
    records_of,
    refuse,
)
from streamstores.store import Page, State, StateLike, StreamInfo
from streamstores.url_options import merged, redacted

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Connection, Pool, Row

__all__ = ["PostgresStreamStore"]

# How often a statement is repeated because its snapshot was older than what refused it. Each
# repetition means that another mutation of the same stream has just been committed.
_ATTEMPTS = 20
_PAGE_BYTES = 67_108_864
_LIST_PAGE = 500


class PostgresStreamStore(CommonMethods):
    """Streams in two tables of a PostgreSQL database, for one event loop.

    Every operation is one statement: atomic, one round trip, on the database's clock. An
    acknowledged mutation survives what the server's `synchronous_commit` makes it survive.
    With `durability="process"` it survives the death of any client, and a crash of the
    server may lose the mutations of its last moments, but never in part.
    (https://www.postgresql.org/docs/current/wal-async-commit.html)

    `target` is a `postgresql://` URL, whose options are those below, or an asyncpg pool. A
    given pool stays open, and gives up one connection for notices. An argument goes before an
    option of the URL.

    `schema` ("public", made if missing) and `table_prefix` ("streamstores_") say where the
    tables are. They are made and migrated when the store opens.

    With `notify` (the default) the store hears of other processes' changes over one
    connection, and finds a change whose notice was lost within `poll_interval` (5) seconds.
    Without it, one query every `poll_interval` (0.05) seconds asks for all streams that are
    watched. That works behind poolers in transaction mode, which also need
    `statement_cache_size=0` unless they keep prepared statements themselves.

    `min_size` (1) and `max_size` (10) are connections of the pool. `timeout` (10) is seconds
    for connecting and for a free connection, `command_timeout` (30) for one statement.
    """

    capabilities: frozenset[str] = frozenset({"changes", "durable", "list", "multi_process"})

    def __init__(
        self,
        target: str | Pool,
        *,
        schema: str | None = None,
        table_prefix: str | None = None,
        notify: bool | None = None,
        poll_interval: float | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        timeout: float | None = None,
        command_timeout: float | None = None,
        statement_cache_size: int | None = None,
        durability: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        url_options = {}
        if isinstance(target, str):
            url = options.split_url(target)
            target, url_options = url.parts.geturl(), url.options
        arguments = {
            "schema": schema,
            "table_prefix": table_prefix,
            "notify": notify,
            "poll_interval": poll_interval,
            "min_size": min_size,
            "max_size": max_size,
            "timeout": timeout,
            "command_timeout": command_timeout,
            "statement_cache_size": statement_cache_size,
            "durability": durability,
        }
        settings = merged(options.DEFAULTS, url_options, arguments)
        connecting = options.connection_options(settings)
        if not isinstance(target, str):
            options.check_pool(target, connecting, notify=settings["notify"])
        names = check_names(
            settings["schema"], settings["table_prefix"], notify=settings["notify"]
        )
        self._target = redacted(target) if isinstance(target, str) else "on a given pool"
        self._names = names

        # The background tasks hold the database and not the store, so that a store that is
        # forgotten open can be collected, warn, and end them.
        async def prepare(connection: Connection) -> None:
            await migrate(connection, names)
            # Only after the migration: both run statements on the tables.
            sweeper.start()
            notices.start()

        self.limits: Limits = options.check_limits(limits or Limits())
        self._sql = Statements(names)
        self._database = Database(target, connecting, prepare)
        self._append_groups = AppendGroups(self._database, self._sql, connecting.max_size)
        self._sweeper = sweeper = PostgresSweeper(self._database, self._sql)
        self._changed_streams = ChangedStreams(self._database, self._sql.changed)
        notices = self._make_notices(settings["poll_interval"], notify=settings["notify"])
        self._notices = notices
        self.changes: Changes = notices.changes
        self.changes.look_every(self.limits.poll_interval, self._changed_streams.find)

    def _make_notices(self, poll_interval: float | None, *, notify: bool) -> Notices | Polling:
        if poll_interval is not None:
            options.check_period(poll_interval, "poll_interval")
        if not notify:
            interval = POLL_INTERVAL_SECONDS if poll_interval is None else poll_interval
            return Polling(self._changed_streams, interval)
        if poll_interval is not None:
            self.limits = replace(self.limits, poll_interval=poll_interval)
        return Notices(self._database, self._names.channel)

    @classmethod
    def from_url(cls, url: str) -> PostgresStreamStore:
        """`postgresql://user:password@host/database?option=value&…`.

        The options are those of the constructor, and those of libpq that asyncpg knows
        (`sslmode`, `target_session_attrs`, …). Raises `InvalidRequest` for any other.
        """
        return cls(url)

    def __repr__(self) -> str:
        schema, table_prefix = self._names
        where = f"schema={schema!r} table_prefix={table_prefix!r}"
        return f"<{type(self).__name__} {self._target} {where}>"

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """As the contract says. One round trip, and one more for each race that it loses."""
        creation = check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )
        # The same version for every attempt, since at most one of them is applied.
        arguments = create_arguments(creation, bounds.first_version())
        for _ in range(_ATTEMPTS):
            row = await self._mutate(self._sql.create, stream_id, *arguments)
            if row is not None:
                return self._created(stream_info(stream_id, row), is_new=row["applied"])
        raise StoreUnavailable(f"stream {stream_id!r} is created by too many callers at once")

    def _created(self, info: StreamInfo, *, is_new: bool) -> StreamInfo:
        if not is_new:
            raise StreamExists(f"stream {info.id!r} exists", info)
        self.changes.noticed(info.id)  # for those who watch a namesake that expired
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
        """As the contract says. One round trip, and one more for each race that it loses, or if
        it only repeats a state.

        Appends that are called while four others are in flight gather, for 10 ms at most, and
        share a transaction.
        """
        bounds.check_stream_id(stream_id, self.limits)
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        arguments = append_arguments(mutation)
        # Not in a loop without end: a row that shows no reason for a refusal means a defect or
        # a storm, and either should become visible.
        for _ in range(_ATTEMPTS):
            row = await self._append(stream_id, arguments)
            if row is None:
                raise StreamNotFound(stream_id)
            info = stream_info(stream_id, row)
            if row["applied"]:
                self._notices.committed(info)
                self.changes.committed(info, records_of(mutation.chunks, info.tail))
                return info
            # Before the refusal: a final state that the stream has already is no conflict.
            if changes_nothing(info, mutation):
                # The first of the two may still be waiting for a standby, or have been given up
                # by a caller that was told `OutcomeUnknown`.
                await self._mutate(self._sql.confirm, stream_id)
                return info
            refuse(info, mutation)  # returns if the row is older than what refused
        raise StoreUnavailable(f"stream {stream_id!r} is changed by too many callers at once")

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """As the contract says. A page has at most 64 MiB, whatever `max_bytes` says."""
        bounds.check_stream_id(stream_id, self.limits)
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        # A bytea is at most 1 GB, and the server joins the records of a page into a single
        # value.
        rows = await self._find(self._sql.read, stream_id, offset, min(max_bytes, _PAGE_BYTES))
        info = stream_info(stream_id, rows[0])
        self._notices.seen(info)
        if offset > info.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=info.tail)
        records = page_records(rows, stream_id, offset)
        next_offset = records[-1].end if records else offset
        # The row and its records are of one snapshot, so this is damage and no race.
        if bool(records) != (offset < info.tail) or next_offset > info.tail:
            raise CorruptData(f"stream {stream_id!r} lacks records at {offset}")
        return Page(records, next_offset, info)

    async def info(self, stream_id: str) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        rows = await self._find(self._sql.info, stream_id)
        info = stream_info(stream_id, rows[0])
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
        row = await self._mutate(self._sql.expire, stream_id, ttl, bounds.in_utc(expires_at))
        if row is None:
            raise StreamNotFound(stream_id)
        if row["has_expired"]:
            self._announce(stream_id)
        return stream_info(stream_id, row)

    async def delete(self, stream_id: str) -> None:
        """As the contract says. The first statement makes the stream gone, the second sweeps up
        to 5,000 of its records; the rest of a longer stream is swept in the background."""
        bounds.check_stream_id(stream_id, self.limits)
        if await self._mutate(self._sql.delete, stream_id) is None:
            raise StreamNotFound(stream_id)
        self._announce(stream_id)
        # After the announcement: followers should not wait until megabytes of records are
        # removed.
        await self._sweeper.sweep_soon()

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """As the contract says, in the order of the ids' bytes; a statement for 500 streams."""
        bounds.check_prefix(prefix)
        self._database.check_open()
        if "\0" in prefix:
            return  # no id contains it, and PostgreSQL accepts it in no text
        # No id is longer than this run of the greatest character, so none sorts after it.
        last = prefix + "\U0010ffff" * (self.limits.stream_id_bytes // 4 + 1)
        after = ""
        while True:
            rows = await self._database.run(self._sql.list, prefix, last, after, _LIST_PAGE)
            for row in rows:
                yield stream_info(row["id"], row)
            if len(rows) < _LIST_PAGE:
                return
            after = rows[-1]["id"]

    async def sweep(self, *, limit: int = 1000) -> int:
        """As the contract says. A statement for 200 streams, and another for 5,000 records."""
        bounds.check_sweep_limit(limit)
        return await self._sweeper.sweep(limit)

    async def aclose(self) -> None:
        """As the contract says. Calls in flight get `timeout` seconds to end, and the last
        notices two seconds to be sent."""
        self.changes.close()
        if self._database.is_inherited:
            return  # the connections and tasks are those of the process that forked this one
        # The notices stop when no statement is left whose change they would have to tell.
        await self._database.refuse()
        await self._sweeper.stop()
        await self._database.drain()
        await self._notices.stop()
        await self._database.close()

    async def __aenter__(self) -> PostgresStreamStore:
        await self._database.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        database = getattr(self, "_database", None)  # None: the constructor refused
        if database is None or not database.is_open or database.is_inherited:
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

    async def _append(self, stream_id: str, arguments: tuple[object, ...]) -> Row | None:
        """As `_mutate`, in a group if many appends are under way."""
        try:
            return await self._append_groups.run(stream_id, *arguments)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._announce(stream_id)
            raise

    async def _mutate(self, sql: str, stream_id: str, *arguments: object) -> Row | None:
        """The row that a mutation returns. If it is not known whether the mutation happened,
        all subscribers of the stream look."""
        try:
            rows = await self._database.run(sql, stream_id, *arguments, mutates=True)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._announce(stream_id)
            raise
        return rows[0] if rows else None

    def _announce(self, stream_id: str) -> None:
        """Tell all subscribers, here and elsewhere, that the stream is gone or may be."""
        self._notices.changed(stream_id)
        self.changes.noticed(stream_id)
