"""The threads of aiosqlite, used for whole functions: one hop there and back.

See `docs/decisions/sqlite-one-hop.md`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import aiosqlite

from streamstores._time_limits import in_time
from streamstores.backends._sqlite.database import DatabaseOptions, connect

T = TypeVar("T")

Call = Callable[[], Any]

_PROBE_SECONDS = 5.0


class ConnectionThread:
    """A SQLite connection, and the thread of aiosqlite that runs functions on it.

    aiosqlite's public methods take one hop for each statement. Its queue, which is private,
    takes a function, so that a whole transaction is one hop. If the queue is not there or not
    as it was, functions go through a public method instead, which is slower.
    """

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._proxy: aiosqlite.Connection | None = None
        self._connection: sqlite3.Connection | None = None
        self._queue: Any = None
        self._calls: set[asyncio.Task[None]] = set()  # those that go through a public method

    async def open(self) -> None:
        """Start the thread and connect; raises what SQLite raises."""
        is_fast = await _queue_takes_functions()
        factory = sqlite3.Connection if is_fast else _CallableConnection
        opened: list[Any] = []
        # The thread keeps the last function that it ran, which must not keep this object.
        self._proxy = _with_a_daemon_thread(partial(_connect, self._options, factory, opened))
        try:
            await self._proxy
        except BaseException:
            # The thread reports its own end to this loop, which may be closed soon.
            if opened:
                await asyncio.to_thread(opened[0].join)
            raise
        self._connection = opened[1]
        self._queue = getattr(self._proxy, "_tx", None) if is_fast else None

    async def close(self) -> None:
        """Run what has been sent, close the connection, and end the thread."""
        if self._proxy is not None:
            if self._calls:
                await asyncio.wait(self._calls)
            await self._proxy.close()
            self._proxy = self._connection = self._queue = None

    def submit(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Call `function(connection, *args)` in the thread."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.send(future, partial(function, self._connection, *args))
        return future

    def send(self, future: asyncio.Future[Any], call: Call) -> None:
        """Call a function in the thread, which tells the future how it went."""
        if self._queue is not None:
            self._queue.put_nowait((future, call))
            return
        task = asyncio.ensure_future(self._call(future, call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, future: asyncio.Future[Any], call: Call) -> None:
        """The public way: `execute_fetchall` runs a `_CallableConnection` in the thread."""
        assert self._proxy is not None
        function: Any = call
        try:
            result = await self._proxy.execute_fetchall(function)
        except BaseException as exc:
            if not future.done():
                future.set_exception(exc)
        else:
            if not future.done():
                future.set_result(result)


def _connect(
    options: DatabaseOptions, factory: type[sqlite3.Connection], opened: list[Any]
) -> sqlite3.Connection:
    """Connect, in the thread; `opened` gets the thread and the connection."""
    opened.append(threading.current_thread())
    connection = connect(options, factory)
    opened.append(connection)
    return connection


class _CallableConnection(sqlite3.Connection):
    """A connection whose `execute` also takes a function, and calls it."""

    def execute(self, sql: Any, *args: Any) -> Any:
        if callable(sql):
            return _Outcome(sql())
        return super().execute(sql, *args)


class _Outcome:
    """What a function returned, in the place of a cursor."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def fetchall(self) -> Any:
        return self._value


def _with_a_daemon_thread(connector: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """An aiosqlite connection whose thread does not keep a process alive.

    aiosqlite has no option for that. But it makes the thread's object in the constructor, and
    a thread that is made in a daemon thread is a daemon too.
    """
    made: list[aiosqlite.Connection] = []

    def make() -> None:
        made.append(aiosqlite.Connection(connector, iter_chunk_size=64))

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join()
    return made[0]


_takes_functions: bool | None = None


async def _queue_takes_functions() -> bool:
    """Whether aiosqlite's queue runs a function; tried once in a process, in memory."""
    global _takes_functions  # noqa: PLW0603 # a fact of the process
    if _takes_functions is None:
        _takes_functions = await _probe_queue()
    return _takes_functions


async def _probe_queue() -> bool:
    """Send a function through the private queue of a database in memory, and see if it runs."""
    proxy = await _with_a_daemon_thread(partial(sqlite3.connect, ":memory:"))
    queue = getattr(proxy, "_tx", None)
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        queue.put_nowait((answer, lambda: "called"))  # type: ignore[union-attr]
        is_called = await in_time(answer, _PROBE_SECONDS) == "called"
    except (AttributeError, TypeError, asyncio.TimeoutError):
        is_called = False
    closing = asyncio.ensure_future(proxy.close())
    await asyncio.wait([closing], timeout=_PROBE_SECONDS)  # a probe can have ended its thread
    closing.cancel()
    return is_called
