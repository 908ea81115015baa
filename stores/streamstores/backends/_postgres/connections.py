"""Connections to PostgreSQL: the pool, turns on it, and connections of its own for notices."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from streamstores import observation
from streamstores._time_limits import in_time
from streamstores.backends._fork import ForkGuard
from streamstores.backends._postgres.driver_errors import NETWORK_ERRORS, translate_errors
from streamstores.backends._postgres.idle_connections import IdleConnections
from streamstores.backends._postgres.options import SYNCHRONOUS_COMMIT, ConnectionOptions
from streamstores.changes import Bell
from streamstores.errors import (
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamStoreError,
)

if TYPE_CHECKING:
    Row = asyncpg.Record
    Pool = asyncpg.Pool[Row]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[Row]
    Connection = asyncpg.Connection[Row] | PooledConnection


FINAL_SECONDS = 5.0
"""How long a mutation of unknown outcome may take to be made final."""

# A session is ours if it runs this very statement, of which the view shows the beginning. The
# pid alone is not enough: behind a pooler it is not that of the server's process.
_END_STATEMENT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE pid = $1 AND usename = current_user AND query <> '' AND starts_with($2, query)
"""


class _PlainConnection(asyncpg.Connection):
    """A connection that goes back to the pool as it is, unless its last statement failed.

    Our statements leave nothing in a session, so asyncpg's reset, a second round trip for
    each of them, has nothing to do.
    """

    _may_be_open = False

    def statement_failed(self) -> None:
        """Have the reset end a statement that was prepared and never executed.

        asyncpg sends no Sync between the two, and a call that is cancelled or timed out just
        there does not send it either. The server's session would stay in the middle of a
        command, with its locks, until the next statement; behind a pooler in transaction mode
        nobody else could use it.
        """
        self._may_be_open = True

    def get_reset_query(self) -> str:
        query = "SELECT" if self._may_be_open else ""
        self._may_be_open = False
        return query


class Database:
    """A pool that is opened when it is first needed, and statements that run on it.

    Each statement is one transaction and, once its connection has prepared it, one round
    trip. With a `statement_cache_size` of 0 it is prepared each time, which costs another;
    asyncpg sends both steps before one Sync, so a pooler in transaction mode keeps them
    together.

    Of our own pool no more than `max_size` statements hold a connection. The others wait in
    turn, and each gets its connection straight from a statement that ended. A connection that
    no statement waits for is kept for the next one, `IdleConnections` says for how long.

    `prepare` is called once with a connection, before any statement runs.
    """

    def __init__(
        self,
        target: str | Pool,
        options: ConnectionOptions,
        prepare: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._url = target if isinstance(target, str) else None
        self._pool: Pool | None = None if isinstance(target, str) else target
        self._options = options
        self._prepare = prepare
        self._fork_guard = ForkGuard()
        self._running = 0  # statements, of which some wait for a connection
        self._idle_bell = Bell()
        self._is_ready = False
        self._is_closed = False
        self._opening: asyncio.Task[None] | None = None
        # How many connections may still be taken; a given pool counts for itself.
        self._free = options.max_size if self._url is not None else sys.maxsize
        self._waiters: deque[asyncio.Future[PooledConnection | None]] = deque()
        self._idle = IdleConnections(self._release)

    @property
    def timeout(self) -> float:
        """Seconds for connecting, and for a free connection."""
        return self._options.timeout

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return (self._is_ready or self._opening is not None) and not self._is_closed

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that opened the store."""
        return self._fork_guard.is_inherited

    async def open(self) -> None:
        """Connect and prepare, once; concurrent callers wait for the same attempt.

        Raises `StoreUnavailable`; the next call tries again.
        """
        self.check_open()
        if self._is_ready:
            return
        if self._opening is None:
            self._fork_guard.opened()
            # A task of its own, so that the first caller's cancellation does not end the
            # attempt for all.
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        await asyncio.wait([opening])  # a cancelled caller leaves the attempt to the others
        if opening.cancelled():
            raise StoreUnavailable("the store was closed")
        opening.result()
        self.check_open()

    def check_open(self) -> None:
        """Raise `InvalidRequest` if the store is closed, or open in another process."""
        self._fork_guard.check()
        if self._is_closed:
            raise InvalidRequest("the store is closed")

    async def run(self, sql: str, *arguments: object, mutates: bool = False) -> list[Row]:
        """The rows of one statement, which is atomic.

        Raises `StoreUnavailable` if nothing was applied, and `OutcomeUnknown` if a statement
        that `mutates` may have been. A cancelled or timed-out statement is cancelled on the
        server too, and this returns only when the server has confirmed that or the session
        has been given up. Before `OutcomeUnknown` is raised, a statement that may still run in
        a lost session is ended, so that it cannot be applied later.
        """
        if not self.is_ready:
            await self.open()
        self.enter()
        try:
            return await self.execute(sql, arguments, mutates=mutates)
        finally:
            self.leave()

    @property
    def is_ready(self) -> bool:
        """Whether a statement can run without `open`, which would also say why it may not."""
        return self._is_ready and not self._is_closed and not self._fork_guard.is_inherited

    def enter(self) -> None:
        """A call begins that `drain` has to wait for; what it executes runs even while the
        store is being closed."""
        self._running += 1

    def leave(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle_bell.ring()

    async def execute_many(self, sql: str, calls: Sequence[Sequence[object]]) -> list[Row]:
        """The rows of one statement for each call, all in one transaction and one round trip.

        For a mutation, within a call that has entered. Raises as `run` does.
        """
        return await self.execute(sql, calls, mutates=True, is_many=True)

    async def execute(
        self, sql: str, arguments: Sequence[Any], *, mutates: bool, is_many: bool = False
    ) -> list[Row]:
        """`run`, within a call that has entered: when a connection is free, which then goes to
        the next statement."""
        # Outside of the translation of errors: nothing has been sent yet, so a failure here is
        # never of unknown outcome.
        connection = await self._take()
        timeout = self._options.command_timeout
        # Asked before the statement: a connection that is back in its pool refuses the
        # question.
        pid = connection.get_server_pid() if mutates else 0
        try:
            with translate_errors(mutates=mutates):
                if is_many:
                    rows = await connection.fetchmany(sql, arguments, timeout=timeout)
                else:
                    rows = await connection.fetch(sql, *arguments, timeout=timeout)
        except BaseException as exc:
            self._note_failure(connection)
            # The connection first: to end the statement takes a connection too, and with
            # `max_size=1` there is no other.
            await self._give_back(connection)
            if isinstance(exc, OutcomeUnknown):
                await self._end_statement(pid, sql)
            raise
        # The next statement gets the connection without a way through the pool.
        if connection.is_closed() or not (self._pass_on(connection) or self._keep(connection)):
            await self._give_back(connection)
        return rows

    def _note_failure(self, connection: PooledConnection) -> None:
        if self._url is None:
            return  # the connections of a given pool have its reset
        with suppress(asyncpg.InterfaceError):  # it broke, and its pool took it back
            if not connection.is_closed():
                cast("_PlainConnection", connection).statement_failed()

    async def _end_statement(self, pid: int, sql: str) -> None:
        """End a session that was lost while it ran this statement; best effort.

        The server does not notice that a client is gone while a statement waits for a lock,
        and would apply it as soon as it gets the lock.
        """
        with suppress(StreamStoreError, asyncio.TimeoutError):
            await in_time(self.run(_END_STATEMENT, pid, sql), FINAL_SECONDS)

    @asynccontextmanager
    async def reserved(self) -> AsyncGenerator[Connection, None]:
        """A connection for one purpose: outside our own pool, or one of a given pool.

        After an error the connection is not used again: it may be silent for ever, and a given
        pool would wait for its answer.
        """
        if not self._is_ready:
            await self.open()
        if self._url is not None:
            with translate_errors():
                connection: Connection = await asyncpg.connect(
                    self._url, **self._connect_options()
                )
            try:
                yield connection
            finally:
                # Not `close`, which sends a farewell and waits for a server that may be silent.
                connection.terminate()
            return
        pooled = await self._acquire()
        try:
            yield pooled
        except BaseException:
            # Before the release, which asks the connection to reset itself and waits for the
            # answer.
            pooled.terminate()
            raise
        finally:
            await self._release(pooled)

    async def refuse(self) -> None:
        """From now on refuse every statement; an attempt to open ends."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])

    async def drain(self) -> None:
        """Wait until no statement is in flight, for `timeout` seconds at most."""
        self._idle_bell.clear()
        if self._running:
            await self._idle_bell.wait(self._options.timeout)

    async def close(self) -> None:
        """Close our own pool; a statement in flight gets `timeout` seconds to end."""
        await self.refuse()
        pool = self._pool
        if self._url is None or pool is None:
            return
        await self._idle.give_all_back()
        try:
            await in_time(pool.close(), self._options.timeout)
        except (*NETWORK_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    def abandon(self) -> None:
        """Drop our own pool without waiting; for a store that was never closed."""
        self._is_closed = True
        self._idle.abandon()
        if self._url is not None and self._pool is not None:
            with suppress(RuntimeError):  # its loop is closed, and the sockets go with it
                self._pool.terminate()

    async def _open(self) -> None:
        """Make our own pool, prepare the database, and leave nothing behind on failure."""
        if self._url is not None:
            with translate_errors():
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=self._options.min_size,
                    max_size=self._options.max_size,
                    **self._connect_options(),
                )
        try:
            # With a connection of the pool, so that the first statement finds it open.
            connection = await self._acquire()
            try:
                with translate_errors():
                    await self._prepare(connection)
            finally:
                await self._release(connection)
        except BaseException:
            # A pool whose first connection could not be prepared is thrown away whole: the next
            # call tries everything again.
            if self._url is not None and self._pool is not None:
                self._pool.terminate()
                self._pool = None
            raise
        self._is_ready = True

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # retrieved, even if every caller has been cancelled

    def _connect_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "connection_class": _PlainConnection,
            "timeout": self._options.timeout,
            "command_timeout": self._options.command_timeout,
        }
        if self._options.statement_cache_size is not None:
            options["statement_cache_size"] = self._options.statement_cache_size
        synchronous_commit = SYNCHRONOUS_COMMIT[self._options.durability]
        if synchronous_commit is not None:
            options["server_settings"] = {"synchronous_commit": synchronous_commit}
        return options

    async def _take(self) -> PooledConnection:
        """A connection for one statement, when its turn comes."""
        if self._free:
            self._free -= 1
            connection = self._idle.take()
        else:
            connection = await self._turn()
        if connection is not None:
            return connection
        try:
            return await self._acquire()
        except BaseException:
            # The turn is given on, or each failure to connect would make the pool smaller by
            # one.
            self._pass_on(None)
            raise

    async def _turn(self) -> PooledConnection | None:
        """What an ending statement passes on: its connection, or the turn to take another."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[PooledConnection | None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_later(self._options.timeout, _give_up, waiter)
        begun_at = loop.time()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                # The turn came in the same moment as the cancellation: hand it on.
                connection = waiter.result()
                if not self._pass_on(connection) and connection is not None:
                    await self._give_back(connection)
            raise
        finally:
            timer.cancel()
            if observation.observer is not None:
                seconds = loop.time() - begun_at
                observation.observer.waited_for_connection("postgres", seconds)

    def _pass_on(self, connection: PooledConnection | None) -> bool:
        """Hand the connection, or the turn to take another, to the next waiting caller.

        Returns False if no caller waits; the connection is then still held.
        """
        while self._waiters:
            waiter = self._waiters.popleft()
            # A caller that was cancelled or has timed out is passed over.
            if not waiter.done():
                waiter.set_result(connection)
                return True
        if connection is None:
            self._free += 1
        return False

    def _keep(self, connection: PooledConnection) -> bool:
        """Keep a connection of our own pool for the next statement; those of a given pool are
        for its other users too."""
        if self._url is None or self._is_closed:
            return False
        self._free += 1
        self._idle.put(connection)
        return True

    async def _give_back(self, connection: PooledConnection) -> None:
        try:
            await self._release(connection)
        finally:
            self._pass_on(None)

    async def _acquire(self) -> PooledConnection:
        assert self._pool is not None, "the pool exists once it is open"
        with translate_errors():
            return await self._pool.acquire(timeout=self._options.timeout)

    async def _release(self, connection: PooledConnection) -> None:
        """Give back. A connection that broke is replaced, and the call's result stands."""
        assert self._pool is not None, "what was acquired has a pool"
        with suppress(*NETWORK_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection)


def _give_up(waiter: asyncio.Future[PooledConnection | None]) -> None:
    if not waiter.done():
        waiter.set_exception(StoreUnavailable("PostgreSQL: no connection was free in time"))
