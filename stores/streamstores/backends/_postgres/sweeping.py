"""Giving back the storage of streams that ended, in small batches."""

from __future__ import annotations

import asyncio
import random

from streamstores.backends._postgres.connecting import Database
from streamstores.backends._postgres.schema import Statements
from streamstores.changes import Bell
from streamstores.errors import StreamStoreError

INTERVAL = 60.0
STREAMS_AT_ONCE = 200
RECORDS_AT_ONCE = 5_000


class Sweeper:
    """Sweeps by itself about every minute, and at once when a deletion left much behind.

    It holds no store, so that one which is forgotten can be collected.
    """

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements
        self._bell = Bell()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        self.abandon()
        if self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def sweep(self, limit: int) -> int:
        """End at most `limit` expired streams and remove them; returns how many.

        One statement for each 200 streams that are due, and one for each 5,000 records.
        """
        ended = 0
        while ended < limit:
            batch = min(limit - ended, STREAMS_AT_ONCE)
            rows = await self._database.run(self._statements.sweep, batch, mutates=True)
            seen, more = rows[0]
            ended += more
            if seen < batch:
                break
        while await self.reclaim():
            pass
        return ended

    async def reclaim(self) -> bool:
        """Remove one batch of what dead streams left; True where there is more."""
        rows = await self._database.run(
            self._statements.reclaim, STREAMS_AT_ONCE, RECORDS_AT_ONCE, mutates=True
        )
        is_more: bool = rows[0][0]
        return is_more

    async def reclaim_soon(self) -> None:
        """One batch now, the rest in the background; that it failed is no concern of the
        caller, since what remains cannot be seen and is removed later."""
        try:
            is_more = await self.reclaim()
        except StreamStoreError:
            return
        if is_more:
            self._bell.ring()

    async def _run(self) -> None:
        while True:
            await self._bell.wait(INTERVAL * random.uniform(0.5, 1.5))
            try:
                await self.sweep(limit=100_000)
            except StreamStoreError:
                continue  # the next round comes
