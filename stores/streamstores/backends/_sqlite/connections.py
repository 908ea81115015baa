"""The open connections of a store: the first writes, the others read in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from streamstores.backends._sqlite import database
from streamstores.backends._sqlite.database import DatabaseOptions
from streamstores.backends._sqlite.group_commit import GroupCommit
from streamstores.backends._sqlite.threads import ConnectionThread
from streamstores.backends._sqlite.transactions import WritingConnection

T = TypeVar("T")


class Connections:
    """Made by `open`. Each connection has a thread, so reads run beside mutations."""

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._threads: list[ConnectionThread] = []
        self._next_reader = 0
        self.commits: GroupCommit

    @classmethod
    async def open(cls, options: DatabaseOptions, reader_count: int) -> Connections:
        """Open the file, bring its schema up to date, and connect the readers."""
        connections = cls(options)
        try:
            with database.translate_errors(options.path):
                await connections._open_writer()
                for _ in range(reader_count):
                    await connections._open_thread()
        except BaseException:
            await connections.close()
            raise
        return connections

    async def _open_writer(self) -> None:
        thread = await self._open_thread()
        await thread.submit(database.migrate)
        writer = await thread.submit(WritingConnection, self._options)
        self.commits = GroupCommit(thread, writer, self._options.path)

    async def _open_thread(self) -> ConnectionThread:
        thread = ConnectionThread(self._options)
        await thread.open()
        self._threads.append(thread)
        return thread

    @property
    def writer(self) -> ConnectionThread:
        return self._threads[0]

    @property
    def readers(self) -> list[ConnectionThread]:
        return self._threads[1:]

    def read(self, query: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Run a function that only reads, on the next reading connection."""
        self._next_reader = self._next_reader % (len(self._threads) - 1) + 1
        return self._threads[self._next_reader].submit(query, *args)

    async def close(self) -> None:
        """Run what has been sent to the connections, and close them."""
        threads, self._threads = self._threads, []
        for thread in reversed(threads):  # the writer is the last: it checkpoints the WAL
            await thread.close()
