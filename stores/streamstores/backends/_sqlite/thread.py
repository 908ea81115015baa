"""aiosqlite's threads, used for whole functions: one hop there and back.

See `docs/decisions/sqlite-one-hop.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import aiosqlite

from streamstores.backends._sqlite.database import Settings, connect
from streamstores.backends._sqlite.writing import Outcome

T = TypeVar("T")


async def connected(settings: Settings) -> aiosqlite.Connection:
    connection = aiosqlite.Connection(partial(connect, settings), iter_chunk_size=64)
    # Before aiosqlite 0.22 the connection is the thread. It must not keep a process alive
    # that ends without closing its store.
    thread: Any = getattr(connection, "_thread", connection)
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        # Its thread reports its own end to this loop, which may be closed soon.
        await asyncio.to_thread(thread.join)
        raise


def submit(
    connection: aiosqlite.Connection, function: Callable[..., T], *args: Any
) -> asyncio.Future[T]:
    """Call `function(sqlite3_connection, *args)` in the connection's thread: one hop, where
    aiosqlite's public methods take one for each statement."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    send(connection, future, partial(function, connection._conn, *args))
    return future


def send(
    connection: aiosqlite.Connection, future: asyncio.Future[Any], call: Callable[[], Any]
) -> None:
    """Call a function in the connection's thread, which tells the future how it went."""
    connection._tx.put_nowait((future, call))


class Commit(asyncio.Future[None]):
    """A transaction under way. It settles its mutations as soon as its thread reports, where
    a callback of a future would wait for the loop's next turn."""

    def __init__(self, settle: Callable[[Sequence[Outcome] | BaseException], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._settle = settle

    def set_result(self, outcomes: Any) -> None:
        super().set_result(None)
        settle = self._settle
        del self._settle  # the thread holds on to its last future, which must not hold a store
        settle(outcomes)

    set_exception = set_result
