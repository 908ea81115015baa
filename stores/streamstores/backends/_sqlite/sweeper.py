"""Sweeping in the background: giving back the storage of streams that are gone."""

from __future__ import annotations

import asyncio
import random
import weakref
from contextlib import suppress
from typing import Protocol

from streamstores.changes import Bell
from streamstores.errors import StreamStoreError

INTERVAL_SECONDS = 60.0


class Sweepable(Protocol):
    async def sweep(self) -> int: ...


class SQLiteSweeper:
    """Sweeps a store about once a minute, and soon after a stream was deleted.

    It holds the store only while it sweeps, so that a forgotten store can be collected.
    """

    def __init__(self, store: Sweepable) -> None:
        self._bell = Bell()
        self._task = asyncio.ensure_future(_sweep_for_ever(weakref.ref(store), self._bell))

    def sweep_soon(self) -> None:
        self._bell.ring()

    def stop(self) -> None:
        self._task.cancel()


async def _sweep_for_ever(ref: weakref.ref[Sweepable], bell: Bell) -> None:
    while True:
        # At random, so that the processes that share a file do not sweep at the same time.
        await bell.wait(INTERVAL_SECONDS * random.uniform(0.8, 1.2))
        store = ref()
        if store is None:
            return
        with suppress(StreamStoreError):  # busy or full now: the next round will do
            while await store.sweep():
                pass
        # Or this variable would hold the store until the next round.
        del store
