"""Group commit: appends that arrive while others are in flight share a transaction."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from streamstores.backends._postgres.connections import Database
from streamstores.backends._postgres.schema import Statements
from streamstores.errors import StoreUnavailable

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Row

ALONE_AT_ONCE = 4
"""How many appends may be in flight before others gather."""
GROUPS_AT_ONCE = 2
"""How many statements or groups may be in flight, with a new group, while appends gather: one
keeps the server busy while the client makes the next."""
LONGEST_WAIT_SECONDS = 0.01
"""How long appends gather at most, whatever the statements in flight wait for."""
APPENDS_AT_ONCE = 64
BYTES_AT_ONCE = 65_536
"""What a group holds at most. asyncpg sends so much in one write, and so the server never waits
for the rest of a group while it holds rows of it. A bigger append goes alone."""


class AppendGroups:
    """Runs an append alone while few are in flight, and else in a group with others.

    A group is one transaction: a statement for each append, all sent at once, one commit. Each
    statement decides on its own append only. It never waits for a row: an append whose row is
    locked, and one that is refused, is repeated alone, which waits or tells the reason. So no
    two groups can wait for each other, and no stream holds up another.

    If the connection of a group breaks, the outcome of all its appends is unknown, and final
    as `Database` says.
    """

    def __init__(self, database: Database, statements: Statements, connections: int) -> None:
        self._database = database
        self._alone = statements.append
        self._grouped = statements.append_grouped
        self._alone_at_once = min(connections, ALONE_AT_ONCE)
        self._groups_at_once = min(connections, GROUPS_AT_ONCE)
        self._in_flight = 0  # appends alone and groups
        self._groups = 0  # those of them that are groups
        self._queue: list[_QueuedAppend] = []
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, *arguments: Any) -> Row | None:
        """The row that an append with these arguments of append.sql returns; None if there is
        no stream.

        A caller that is cancelled while its group is in flight waits for its end, for the
        `timeout` of the store at most.
        """
        database = self._database
        if not database.is_ready:
            await database.open()
        database.enter()
        try:
            if not self._may_go_alone:
                row = await self._run_grouped(arguments)
                if row is not None:
                    return row
            return await self._run_alone(arguments)
        finally:
            database.leave()

    @property
    def _may_go_alone(self) -> bool:
        return self._in_flight < self._alone_at_once and not self._groups and not self._queue

    async def _run_alone(self, arguments: tuple[Any, ...]) -> Row | None:
        self._in_flight += 1
        try:
            rows = await self._database.execute(self._alone, arguments, mutates=True)
        finally:
            self._ended()
        return rows[0] if rows else None

    async def _run_grouped(self, arguments: tuple[Any, ...]) -> Row | None:
        """The row after the append; None if it has to be made alone."""
        size = _bytes_of(*arguments)
        if size > BYTES_AT_ONCE:
            return None
        loop = asyncio.get_running_loop()
        queued = _QueuedAppend(arguments, size, loop.create_future(), [])
        self._queue.append(queued)
        if self._timer is None:
            self._timer = loop.call_later(LONGEST_WAIT_SECONDS, self._send_late)
        try:
            return await queued.future
        except asyncio.CancelledError:
            # What was sent cannot be taken back without the others, and the caller must not go
            # on while it may still be applied.
            if queued.sent:
                await asyncio.wait(queued.sent, timeout=self._database.timeout)
            raise

    def _ended(self) -> None:
        self._in_flight -= 1
        while self._queue and self._in_flight < self._groups_at_once:
            self._send_group()

    def _send_late(self) -> None:
        self._timer = None
        self._send_group()

    def _send_group(self) -> None:
        """Send what fits a group, and have the rest follow in a moment at the latest."""
        group = self._take_group()
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            self._timer = loop.call_later(LONGEST_WAIT_SECONDS, self._send_late)
        if group:
            self._in_flight += 1
            self._groups += 1
            sending = loop.create_task(self._run_group(group), name="streamstores: appends")
            for queued in group:
                queued.sent.append(sending)

    def _take_group(self) -> list[_QueuedAppend]:
        """As much of the queue as fits a group, without the appends that were cancelled."""
        sizes = accumulate(queued.size for queued in self._queue[:APPENDS_AT_ONCE])
        count = sum(1 for size in sizes if size <= BYTES_AT_ONCE)
        taken, self._queue = self._queue[:count], self._queue[count:]
        return [queued for queued in taken if not queued.future.done()]

    async def _run_group(self, group: list[_QueuedAppend]) -> None:
        """Run the group as one transaction, and give each append its row, None if it has to be
        made alone, or the error of all."""
        calls = [(*queued.arguments, number) for number, queued in enumerate(group)]
        try:
            rows = await self._database.execute_many(self._grouped, calls)
        except asyncio.CancelledError:  # the event loop is being closed
            for queued in group:
                queued.future.cancel()
            raise
        except StoreUnavailable as exc:
            # If the server refused the statement of one append, none was applied. Alone, each
            # append gets its own answer.
            if isinstance(exc.__cause__, asyncpg.PostgresError):
                rows = []
            else:
                _fail(group, exc)
                return
        except Exception as exc:
            _fail(group, exc)
            return
        finally:
            self._groups -= 1
            self._ended()
        applied = {row["number"]: row for row in rows}
        for number, queued in enumerate(group):
            if not queued.future.done():
                queued.future.set_result(applied.get(number))


class _QueuedAppend(NamedTuple):
    """An append that waits for its group, with the caller's future."""

    arguments: tuple[Any, ...]
    size: int
    future: asyncio.Future[Row | None]
    sent: list[asyncio.Task[None]]
    """The task of its group, once that was sent."""


def _bytes_of(
    stream_id: str,
    size: int,
    at: int | None,
    version: int | None,
    state: str | None,
    error: str | None,
    attributes: str | None,
    starts: list[str],
    sizes: list[str],
    data: bytes,
) -> int:
    """What the statement of an append takes on the wire at most, about."""
    texts = 4 * (len(stream_id) + len(error or "") + len(attributes or ""))
    return 256 + texts + 32 * len(starts) + size


def _fail(group: list[_QueuedAppend], exc: Exception) -> None:
    """Give each caller an exception of its own, because each adds its traceback."""
    for queued in group:
        if not queued.future.done():
            own = type(exc)(*exc.args)
            own.__cause__ = exc.__cause__
            queued.future.set_exception(own)
