"""How a store hears of what other processes changed, and tells them of its own changes.

Either by LISTEN and NOTIFY on one connection (`Notices`), or by one query for all watched
streams at once (`Polling`), which works through any pooler. Neither carries truth: a
notice makes watchers ask again, and a lost one is mended by their own poll.

Neither holds the store, so that one which is forgotten can be collected.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from streamstores.backends._postgres.connecting import Database, translate_errors
from streamstores.changes import Bell, Changes
from streamstores.errors import StoreUnavailable, StreamStoreError
from streamstores.store import StreamInfo

if TYPE_CHECKING:
    from streamstores.backends._postgres.connecting import Connection

PAYLOAD_BYTES = 7_000  # the server takes less than 8,000
OUTBOX = 10_000
SPACING_SECONDS = 0.002
PROBE_SECONDS = 15.0
ECHO_SECONDS = 5.0
FAREWELL_SECONDS = 2.0
BACKOFF_SECONDS = (0.05, 5.0)

_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
_EVERY_STREAM = ""

_log = logging.getLogger("streamstores.postgres")


class Notices:
    """One connection that listens, and tells others what this store committed.

    A notice goes out after its commit, not with it: NOTIFY takes a lock on the whole
    database until its transaction has ended, so within an append all appends of all streams
    would wait for each other's disk. Whatever gathers while one is under way goes out as
    one, so their number is bounded however many appends there are.

    It connects when the first stream is watched or the first notice is due, and listens
    from the first watch on.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self.changes = Changes(self._watched)
        self._database = database
        self._channel = channel
        self._origin = secrets.token_hex(4)  # tells our own notices, which need no reading
        self._outbox: dict[str, int | None] = {}  # the version reached; None: perhaps ended
        self._bell = Bell()
        self._echo = Bell()
        self._is_wanted = False
        self._is_closing = False
        self._backoff = BACKOFF_SECONDS[0]
        self._task: asyncio.Task[None] | None = None

    def _watched(self, stream_id: str, is_watched: bool) -> None:
        if is_watched and not self._is_wanted:
            self._is_wanted = True
            self._bell.ring()

    def seen(self, info: StreamInfo) -> None:
        """A read showed this; notices need not know."""

    def committed(self, info: StreamInfo) -> None:
        """This store's mutation made the stream what `info` says."""
        if self._outbox.get(info.id, 0) is not None:
            self._post(info.id, info.version)

    def changed(self, stream_id: str) -> None:
        """This store ended the stream, or changed it, or may have."""
        self._post(stream_id, None)

    def _post(self, stream_id: str, version: int | None) -> None:
        if len(self._outbox) >= OUTBOX:
            self._outbox = {_EVERY_STREAM: None}
        self._outbox[stream_id] = version
        self._bell.ring()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Send what is left to send, for a moment, and disconnect."""
        self._is_closing = True
        self._bell.ring()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=FAREWELL_SECONDS)
            self.abandon()
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def _run(self) -> None:
        shortest, longest = BACKOFF_SECONDS
        await self._bell.wait(None)
        self._bell.ring()
        while not self._is_done():
            try:
                async with self._database.reserved() as connection:
                    with translate_errors():
                        await self._serve(connection)
                    return
            except StreamStoreError as exc:
                if self._backoff == shortest:
                    _log.warning("no notices for now, followers poll: %s", exc)
            await asyncio.sleep(self._backoff * random.uniform(0.5, 1.5))
            self._backoff = min(2 * self._backoff, longest)

    async def _serve(self, connection: Connection) -> None:
        is_listening = False
        connection.add_termination_listener(self._lost)
        try:
            while not self._is_done():
                if self._is_wanted and not is_listening:
                    is_listening = True
                    await connection.add_listener(self._channel, self._heard)
                    await self._check()
                    self.changes.noticed_all()
                elif not await self._bell.wait(PROBE_SECONDS):
                    await connection.execute("SELECT 1")
                await self._send(connection)
        finally:
            connection.remove_termination_listener(self._lost)
            if is_listening:
                await self._unlisten(connection)

    def _is_done(self) -> bool:
        return self._is_closing and not self._outbox

    async def _send(self, connection: Connection) -> None:
        while self._outbox:
            batch, self._outbox = self._outbox, {}
            try:
                await self._notify(connection, *self._payloads(batch))
            except BaseException:
                self._outbox = {**batch, **self._outbox}
                raise
            await asyncio.sleep(SPACING_SECONDS)
        if connection.is_closed():
            raise StoreUnavailable("the connection for notices was lost")

    async def _check(self) -> None:
        """Raise unless a notice from another connection arrives: a pooler in transaction mode
        takes LISTEN, and gives it to somebody else's session."""
        self._echo.clear()
        await self._database.run(_NOTIFY, self._channel, [self._origin])
        if not await self._echo.wait(ECHO_SECONDS):
            raise StoreUnavailable(
                "notices do not arrive; behind a pooler in transaction mode use notify=false"
            )
        self._backoff = BACKOFF_SECONDS[0]

    async def _notify(self, connection: Connection, *payloads: str) -> None:
        await connection.execute(_NOTIFY, self._channel, payloads)
        self._backoff = BACKOFF_SECONDS[0]

    def _payloads(self, batch: Mapping[str, int | None]) -> Iterator[str]:
        """`<version> <id>`, a line each (ids have no control characters), after the origin."""
        lines, size = [self._origin], 0
        for stream_id, version in batch.items():
            line = f"{version or ''} {stream_id}"
            size += len(line.encode()) + 1
            if size > PAYLOAD_BYTES:
                yield "\n".join(lines)
                lines, size = [self._origin], len(line.encode()) + 1
            lines.append(line)
        yield "\n".join(lines)

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        origin, *lines = str(payload).split("\n")
        if origin == self._origin:
            self._echo.ring()
            return
        for line in lines:
            version, _, stream_id = line.partition(" ")
            if stream_id == _EVERY_STREAM:
                self.changes.noticed_all()
            else:
                self.changes.noticed(stream_id, int(version) if version.isdigit() else None)

    def _lost(self, connection: object) -> None:
        self._echo.ring()
        self._bell.ring()

    async def _unlisten(self, connection: Connection) -> None:
        """Only a connection that lives on, in a pool that was given, needs it."""
        with suppress(StreamStoreError), translate_errors():
            await asyncio.wait_for(
                connection.remove_listener(self._channel, self._heard), ECHO_SECONDS
            )


class Polling:
    """One query for all watched streams, every `interval` seconds while there are any.

    For each it keeps the version that all its watchers have seen. Where two of them may
    have seen different ones it keeps None, which the next query reports as a change.
    """

    def __init__(self, database: Database, changed_sql: str, interval: float) -> None:
        self.changes = Changes(self._watched)
        self._database = database
        self._changed_sql = changed_sql
        self._interval = interval
        self._known: dict[str, int | None] = {}
        self._bell = Bell()
        self._task: asyncio.Task[None] | None = None

    def _watched(self, stream_id: str, is_watched: bool) -> None:
        if not is_watched:
            self._known.pop(stream_id, None)
            return
        self._known[stream_id] = None
        self._bell.ring()

    def seen(self, info: StreamInfo) -> None:
        """A read of a watcher, or of anybody, showed this."""
        if info.id in self._known:
            known = self._known[info.id]
            self._known[info.id] = info.version if known in (None, info.version) else None

    def committed(self, info: StreamInfo) -> None:
        """This store's mutation made the stream what `info` says; its watchers were told."""
        if self._known.get(info.id) == info.version - 1:
            self._known[info.id] = info.version

    def changed(self, stream_id: str) -> None:
        """The next query finds it."""

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

    async def _run(self) -> None:
        while True:
            if not self._known:
                await self._bell.wait(None)
            await asyncio.sleep(self._interval)
            self._bell.clear()
            try:
                await self._poll()
            except StreamStoreError as exc:
                _log.warning("polling failed, and goes on: %s", exc)

    async def _poll(self) -> None:
        asked = self._known.copy()
        if not asked:
            return
        versions = [None if version is None else str(version) for version in asked.values()]
        rows = await self._database.run(self._changed_sql, list(asked), versions)
        for stream_id, version in rows:
            if stream_id in self._known:
                self._known[stream_id] = version
                has_grown = version is not None and version > (asked[stream_id] or 0)
                # A lower one is a namesake's, which everybody has to look at.
                self.changes.noticed(stream_id, version if has_grown else None)
