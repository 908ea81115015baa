"""One query for many streams: the safety look, and polling, which works through any pooler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from streamstores import logs
from streamstores.backends._postgres.connections import Database
from streamstores.changes import Bell, Changes
from streamstores.errors import InvalidRequest, StreamStoreError
from streamstores.store import StreamInfo

POLL_INTERVAL_SECONDS = 0.05

_log = logging.getLogger("streamstores.postgres")


class ChangedStreams:
    """The query for streams whose version is another than the known one."""

    def __init__(self, database: Database, sql: str) -> None:
        self._database = database
        self._sql = sql

    async def find(self, known: Mapping[str, int | None]) -> dict[str, int | None]:
        """The version of each such stream; None for a stream that is gone.

        A stream whose known version is None is reported if it is there.
        """
        versions = [None if version is None else str(version) for version in known.values()]
        rows = await self._database.run(self._sql, list(known), versions)
        return {row[0]: row[1] for row in rows}


class Polling:
    """Asks which of the watched streams have changed, every `interval` seconds.

    It rests while no stream is watched. For each stream it keeps the version that all its
    subscribers have seen; if two of them may have seen different versions it keeps None, which
    the next query reports as a change.

    It holds no reference to the store, so that a forgotten store can be collected.
    """

    def __init__(self, changed_streams: ChangedStreams, interval: float) -> None:
        self.changes = Changes(self._on_interest)
        self._changed_streams = changed_streams
        self._interval = interval
        self._known: dict[str, int | None] = {}
        self._bell = Bell()
        self._task: asyncio.Task[None] | None = None

    def _on_interest(self, stream_id: str, is_watched: bool) -> None:
        if not is_watched:
            self._known.pop(stream_id, None)
            return
        # The subscriber may have seen any version, so the next query must report the stream.
        self._known[stream_id] = None
        self._bell.ring()

    def seen(self, info: StreamInfo) -> None:
        """A read, of a subscriber or of any other caller, has shown this info."""
        if info.id in self._known:
            known = self._known[info.id]
            self._known[info.id] = info.version if known in (None, info.version) else None

    def committed(self, info: StreamInfo) -> None:
        """This store's mutation made the stream what `info` says; subscribers were told."""
        # Otherwise a change of another process lies between, which the next query has to
        # report.
        if self._known.get(info.id) == info.version - 1:
            self._known[info.id] = info.version

    def changed(self, stream_id: str) -> None:
        """The stream may have changed or be gone: the next query will find it."""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._poll_for_ever())

    async def stop(self) -> None:
        self.abandon()
        if self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Cancel the background task without waiting for it."""
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def _poll_for_ever(self) -> None:
        """Query again and again; a query that fails is logged, and the next is made all the
        same."""
        while True:
            if not self._known:
                await self._bell.wait(None)
            # Before the query, so that streams which begin to be watched together are asked
            # for together.
            await asyncio.sleep(self._interval)
            self._bell.clear()
            try:
                await self._poll()
            except InvalidRequest:
                return  # the store was closed
            except StreamStoreError as exc:
                _log.warning(
                    "a poll for changes failed, the next one follows: %s",
                    exc,
                    extra=logs.event("polls.failed"),
                )

    async def _poll(self) -> None:
        # A copy, because streams come and go while the query runs.
        asked = self._known.copy()
        if not asked:
            return
        for stream_id, version in (await self._changed_streams.find(asked)).items():
            if stream_id in self._known:
                self._known[stream_id] = version
                has_grown = version is not None and version > (asked[stream_id] or 0)
                # A lower version is that of a namesake: every subscriber has to look.
                self.changes.noticed(stream_id, version if has_grown else None)
