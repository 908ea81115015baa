"""Connections to PostgreSQL: the options of a URL, the pool, and what its errors mean."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from streamstores.errors import (
    CorruptData,
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

DURABILITY = {"power": None, "process": "off"}

# What asyncpg makes of a URL by itself; anything else it would send to the server.
_CONNECTING = frozenset(
    {
        *("host", "port", "user", "password", "dbname", "database", "passfile", "service"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "krbsrvname", "gsslib", "application_name", "options"),
    }
)

_LOST = ("57P01", "57P02", "40003")  # the server went away, or does not know itself
_CORRUPT = ("XX001", "XX002")
_NETWORK = (OSError, asyncio.TimeoutError, asyncpg.InternalClientError)


class PoolOptions(NamedTuple):
    """How a store connects, where it is not given a pool."""

    min_size: int = 1
    max_size: int = 10
    timeout: float = 10.0
    """Seconds for connecting, and for a free connection of the pool."""
    command_timeout: float = 30.0
    """Seconds for one statement."""
    statement_cache_size: int | None = None
    """None: as asyncpg has it. 0: for poolers that forget prepared statements."""
    durability: str = "power"


def split_url(url: str, ours: dict[str, Callable[[str], Any]]) -> tuple[str, dict[str, Any]]:
    """The URL for asyncpg, and our options, parsed; refuses what neither knows."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise InvalidRequest(f"not a URL: {exc}") from exc
    if parts.scheme not in ("postgresql", "postgres"):
        raise InvalidRequest(f"not a PostgreSQL URL: {parts.scheme}://")
    passed_on = []
    options = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in ours:
            options[name] = _parse(ours[name], name, text)
        elif name in _CONNECTING:
            passed_on.append((name, text))
        else:
            known = ", ".join(sorted(ours))
            raise InvalidRequest(f"unknown option {name!r} of a PostgreSQL URL; known: {known}")
    return parts._replace(query=urlencode(passed_on)).geturl(), options


def parse_flag(text: str) -> bool:
    """A truth value of a URL."""
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError as exc:
        raise ValueError("true or false") from exc


def _parse(parse: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"option {name} cannot be {text!r}") from exc


class _PlainConnection(asyncpg.Connection):
    """A connection that goes back to the pool as it is.

    Our statements leave nothing in a session, so asyncpg's reset, a second round trip for
    each, has nothing to do.
    """

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool that is opened when it is first needed, and statements run on it.

    Each statement is one transaction and, once its connection has prepared it, one round
    trip. With a `statement_cache_size` of 0 it is prepared each time, for a second one; asyncpg
    sends both steps before one Sync, so a pooler in transaction mode keeps them together.

    Of our own pool no more than `max_size` statements take a connection; the others wait in
    turn, and each gets its connection straight from one that ended. The way through asyncpg's
    pool costs the client as much as the statement itself.

    `prepare` is called with a connection once, before anything else.
    """

    def __init__(
        self,
        target: str | Pool,
        options: PoolOptions,
        prepare: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._url = target if isinstance(target, str) else None
        self._pool: Pool | None = None if isinstance(target, str) else target
        self._options = options
        self._prepare = prepare
        self._is_ready = False
        self._is_closed = False
        self._opening: asyncio.Task[None] | None = None
        self._free = options.max_size if self._url is not None else sys.maxsize
        self._waiters: deque[asyncio.Future[PooledConnection | None]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return (self._is_ready or self._opening is not None) and not self._is_closed

    async def open(self) -> None:
        """Connect and prepare, once; those who come meanwhile wait for the same attempt.

        Raises `StoreUnavailable`; the next call tries anew.
        """
        self.check_open()
        if self._is_ready:
            return
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        await asyncio.wait([opening])
        if opening.cancelled():
            raise StoreUnavailable("the store was closed")
        opening.result()
        self.check_open()

    def check_open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("the store is closed")

    async def run(self, sql: str, *arguments: object, mutates: bool = False) -> list[Row]:
        """The rows of one statement, which is atomic.

        Raises `StoreUnavailable` where nothing was applied, `OutcomeUnknown` where a
        statement that `mutates` may have been. A cancelled one is cancelled on the server
        too before its connection serves again.
        """
        if not self._is_ready or self._is_closed:
            await self.open()
        connection = await self._take()
        timeout = self._options.command_timeout
        try:
            with translate_errors(mutates=mutates):
                rows = await connection.fetch(sql, *arguments, timeout=timeout)
        except BaseException:
            await self._give_back(connection)
            raise
        if connection.is_closed() or not self._pass_on(connection):
            await self._give_back(connection)
        return rows

    @asynccontextmanager
    async def reserved(self) -> AsyncIterator[Connection]:
        """A connection apart, for as long as the context lasts: outside our own pool, and
        one of a pool that was given."""
        if not self._is_ready:
            await self.open()
        if self._url is None:
            connection = await self._acquire()
            try:
                yield connection
            finally:
                await self._release(connection)
        else:
            with translate_errors():
                connection = await asyncpg.connect(self._url, **self._connect_options())
            try:
                yield connection
            finally:
                connection.terminate()

    async def refuse(self) -> None:
        """From now on refuse every statement; an attempt to open ends."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])

    async def close(self) -> None:
        """Close our own pool; a statement in flight gets `timeout` seconds to end."""
        await self.refuse()
        pool = self._pool
        if self._url is None or pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), self._options.timeout)
        except (*_NETWORK, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    def abandon(self) -> None:
        """Drop our own pool without a wait, where nobody is left to close it."""
        self._is_closed = True
        if self._url is not None and self._pool is not None:
            with suppress(RuntimeError):  # its loop is closed, and the sockets go with it
                self._pool.terminate()

    async def _open(self) -> None:
        if self._url is not None:
            with translate_errors():
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=self._options.min_size,
                    max_size=self._options.max_size,
                    **self._connect_options(),
                )
        try:
            connection = await self._acquire()
            try:
                with translate_errors():
                    await self._prepare(connection)
            finally:
                await self._release(connection)
        except BaseException:
            if self._url is not None and self._pool is not None:
                self._pool.terminate()
                self._pool = None
            raise
        self._is_ready = True

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # seen, even where everybody who waited was cancelled

    def _connect_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "connection_class": _PlainConnection,
            "timeout": self._options.timeout,
            "command_timeout": self._options.command_timeout,
        }
        if self._options.statement_cache_size is not None:
            options["statement_cache_size"] = self._options.statement_cache_size
        if DURABILITY[self._options.durability] is not None:
            options["server_settings"] = {
                "synchronous_commit": DURABILITY[self._options.durability]
            }
        return options

    async def _take(self) -> PooledConnection:
        """A connection for one statement, when its turn comes."""
        connection = None
        if self._free:
            self._free -= 1
        else:
            connection = await self._turn()
        if connection is not None:
            return connection
        try:
            return await self._acquire()
        except BaseException:
            self._pass_on(None)
            raise

    async def _turn(self) -> PooledConnection | None:
        """What the one before passes on: its connection, or the turn to take another."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[PooledConnection | None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_later(self._options.timeout, _expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:  # it came together
                connection = waiter.result()
                if not self._pass_on(connection) and connection is not None:
                    await self._give_back(connection)
            raise
        finally:
            timer.cancel()

    def _pass_on(self, connection: PooledConnection | None) -> bool:
        """To the next who waits; False where nobody does, and the connection is still held."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        if connection is None:
            self._free += 1
        return False

    async def _give_back(self, connection: PooledConnection) -> None:
        try:
            await self._release(connection)
        finally:
            self._pass_on(None)

    async def _acquire(self) -> PooledConnection:
        assert self._pool is not None, "the pool is there once it is open"
        with translate_errors():
            return await self._pool.acquire(timeout=self._options.timeout)

    async def _release(self, connection: PooledConnection) -> None:
        """Give back; a connection that broke is replaced, and the call's result stands."""
        assert self._pool is not None, "what was acquired has a pool"
        with suppress(*_NETWORK, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection)


def _expire(waiter: asyncio.Future[PooledConnection | None]) -> None:
    if not waiter.done():
        waiter.set_exception(StoreUnavailable("PostgreSQL: no connection was free in time"))


@contextmanager
def translate_errors(*, mutates: bool = False) -> Iterator[None]:
    """The only place where an error of the driver or the server becomes one of ours.

    An error that the server reports while its session lives on rolled the statement back:
    nothing was applied. A session that ends in the middle leaves the outcome open, which
    matters where the statement `mutates`; connecting and reading never do.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as exc:
        raise InvalidRequest(f"PostgreSQL: {exc}") from exc
    except asyncpg.PostgresError as exc:
        raise _meaning(exc, mutates=mutates) from exc
    except asyncpg.InterfaceError as exc:  # refused by asyncpg itself, before it sent anything
        raise StoreUnavailable(f"PostgreSQL: {exc}") from exc
    except ValueError as exc:  # a part of the URL that asyncpg cannot read
        raise InvalidRequest(f"PostgreSQL: {exc}") from exc
    except _NETWORK as exc:
        text = f"PostgreSQL: {exc or 'no answer in time'}"
        raise (OutcomeUnknown(text) if mutates else StoreUnavailable(text)) from exc


def _meaning(exc: asyncpg.PostgresError, *, mutates: bool) -> StreamStoreError:
    code = exc.sqlstate or ""
    text = f"PostgreSQL: {exc} ({code})"
    if code in _CORRUPT:
        return CorruptData(text)
    if mutates and (code.startswith("08") or code in _LOST):
        return OutcomeUnknown(text)
    return StoreUnavailable(text)
