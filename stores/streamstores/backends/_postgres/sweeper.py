"""Sweeping: giving back the storage of streams that are gone, in small batches."""

from __future__ import annotations

import asyncio
import random

from streamstores import observation
from streamstores.backends._postgres.connections import Database
from streamstores.backends._postgres.schema import Statements
from streamstores.changes import Bell
from streamstores.errors import StreamStoreError

INTERVAL_SECONDS = 60.0
STREAMS_AT_ONCE = 200
RECORDS_AT_ONCE = 5_000


class PostgresSweeper:
    """Sweeps about once a minute, and soon after a deletion that left many records.

    It holds no reference to the store, so that a forgotten store can be collected.
    """

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements
        self._bell = Bell()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._sweep_for_ever())

    async def stop(self) -> None:
        self.abandon()
        if self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Cancel the background task without waiting for it."""
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def sweep(self, limit: int) -> int:
        """Sweep up to `limit` expired streams and all records of streams that are gone.

        Returns how many streams expired. Costs a statement for 200 streams that are due,
        and a statement for 5,000 records.
        """
        expired = 0
        # In small batches, because an append to a locked row would wait for the whole batch.
        while expired < limit:
            # In small transactions, which hold few locks, and hold them for milliseconds.
            batch = min(limit - expired, STREAMS_AT_ONCE)
            rows = await self._database.run(self._statements.sweep_streams, batch, mutates=True)
            seen, more = rows[0]
            expired += more
            if seen < batch:
                break
        while await self._sweep_records():
            pass
        if observation.observer is not None:
            observation.observer.swept("postgres", expired)
        return expired

    async def sweep_soon(self) -> None:
        """Sweep one batch of records now and leave the rest to the background task.

        A failure is not the caller's concern: the records cannot be read any more, and the
        next round removes them.
        """
        try:
            is_more = await self._sweep_records()
        except StreamStoreError:
            return
        if is_more:
            self._bell.ring()

    async def _sweep_records(self) -> bool:
        """Remove one batch of records of streams that are gone; True if there may be more."""
        rows = await self._database.run(
            self._statements.sweep_records, STREAMS_AT_ONCE, RECORDS_AT_ONCE, mutates=True
        )
        is_more: bool = rows[0][0]
        return is_more

    async def _sweep_for_ever(self) -> None:
        while True:
            # At random, so that the processes of a fleet do not sweep at the same time.
            await self._bell.wait(INTERVAL_SECONDS * random.uniform(0.5, 1.5))
            try:
                await self.sweep(limit=100_000)
            except StreamStoreError:
                continue  # unavailable or busy now: the next round will do
