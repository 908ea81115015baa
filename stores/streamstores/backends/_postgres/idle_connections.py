"""Connections of our own pool that wait for their next statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import PooledConnection

UNUSED_SECONDS = 1.0
"""A connection that no statement needed for so long, or up to twice as long, goes back to the
pool, which closes it after some minutes."""


class IdleConnections:
    """A stack of idle connections that are not given back to asyncpg's pool.

    Giving a connection back and acquiring it again costs the client half as much as a
    statement. The connection used last is used first, so those that a quieter time does not
    need stay at the bottom, and are given back.
    """

    def __init__(self, give_back: Callable[[PooledConnection], Awaitable[None]]) -> None:
        self._give_back = give_back
        self._connections: list[PooledConnection] = []
        self._unused = 0  # how many at the bottom have stayed since the timer was set
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Future[None]] = set()

    def put(self, connection: PooledConnection) -> None:
        self._connections.append(connection)
        if self._timer is None:
            self._set_timer()

    def take(self) -> PooledConnection | None:
        """A connection that is open, as far as this process knows."""
        while self._connections:
            connection = self._connections.pop()
            self._unused = min(self._unused, len(self._connections))
            with suppress(asyncpg.InterfaceError):  # it broke, and its pool took it back
                if not connection.is_closed():
                    return connection
                self._start_giving_back(connection)
        return None

    async def give_all_back(self) -> None:
        self.abandon()
        while self._connections:
            self._start_giving_back(self._connections.pop())
        if self._leaving:
            await asyncio.wait(self._leaving)

    def abandon(self) -> None:
        """Stop the timer; whatever ends the pool ends the connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._unused = len(self._connections)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(UNUSED_SECONDS, self._give_unused_back)

    def _give_unused_back(self) -> None:
        self._timer = None
        for connection in self._connections[: self._unused]:
            self._start_giving_back(connection)
        del self._connections[: self._unused]
        if self._connections:
            self._set_timer()

    def _start_giving_back(self, connection: PooledConnection) -> None:
        leaving = asyncio.ensure_future(self._give_back(connection))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
