"""Notices: how a store hears by LISTEN and NOTIFY what other processes changed.

Notices carry no truth. A notice makes subscribers ask the database again, and if it is lost
their own poll finds the change.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from streamstores import logs, observation
from streamstores._time_limits import in_time
from streamstores.backends._postgres.connections import Database
from streamstores.backends._postgres.driver_errors import translate_errors
from streamstores.backends._postgres.outbox import Outbox, parse_payload, payloads_of
from streamstores.changes import Bell, Changes
from streamstores.errors import InvalidRequest, StoreUnavailable, StreamStoreError
from streamstores.store import StreamInfo

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Connection

SPACING_SECONDS = 0.002
"""The pause after a notice, in which more changes gather."""
BUSY_SPACING_SECONDS = 0.008
"""The pause after a notice that told of `MANY_STREAMS`."""
MANY_STREAMS = 8
PROBE_SECONDS = 15.0
"""How long the connection may be quiet before it is asked whether it is still there."""
ANSWER_SECONDS = 5.0
"""The bound of every statement on the connection, whatever a given pool has for others."""
ECHO_SECONDS = 5.0
"""How long a notice to ourselves may take before LISTEN counts as not working, and as long
once more for its sending."""
SILENCE_SECONDS = 30
"""How long the server waits for a listener that takes nothing before it ends the session."""
FAREWELL_SECONDS = 2.0
"""How long closing may wait for the last notices to be sent."""
BACKOFF_SECONDS = (0.05, 5.0)

_NO_ECHO = "notices do not arrive; behind a pooler in transaction mode use notify=false"
_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"

# A listener whose process is stopped leaves the server blocked in a write, inside a transaction
# whose snapshot keeps VACUUM from removing dead rows anywhere in the database (seen in
# PostgreSQL 16 and 18). Of the timeouts only this one ends such a write, in milliseconds; it
# has no effect on a Unix socket and on servers that do not run on Linux.
_END_A_SILENT_SESSION = "SELECT set_config('tcp_user_timeout', $1, false)"

_log = logging.getLogger("streamstores.postgres")


class Notices:
    """One connection that listens, and tells other processes what this store committed.

    A notice goes out after its commit, not with it. NOTIFY holds a lock on the whole database
    until its transaction has ended, so within an append it would make all appends of all
    streams wait for each other's disk. Changes that gather while a notice is under way go out
    together, so the number of notices is bounded however many appends there are.

    The store connects when the first stream is watched or the first notice is due, and listens
    from the first watch on. If LISTEN is refused or does not work, it still sends notices and
    tries to listen again later.

    It holds no reference to the store, so that a forgotten store can be collected.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self.changes = Changes(self._on_interest)
        self._database = database
        self._channel = channel
        self._origin = secrets.token_hex(4)  # marks our own notices, which need no reading
        self._echo = secrets.token_hex(4)  # the payload of a notice to ourselves
        self._outbox = Outbox()
        self._bell = Bell()
        self._closing_bell = Bell()
        self._is_closing = False
        self._is_wanted = False  # to listen: a stream is or was watched
        self._is_listening = False
        self._listen_at = 0.0  # not before: LISTEN was refused
        self._echo_by = math.inf  # when to give up waiting for the echo
        self._connect_backoff = _Backoff()
        self._listen_backoff = _Backoff()
        self._task: asyncio.Task[None] | None = None

    def _on_interest(self, stream_id: str, is_watched: bool) -> None:
        if is_watched and not self._is_wanted:
            self._is_wanted = True
            self._bell.ring()

    def seen(self, info: StreamInfo) -> None:
        """A read has shown this info, which notices do not need to know."""

    def committed(self, info: StreamInfo) -> None:
        """This store's mutation made the stream what `info` says."""
        self._outbox.grew(info.id, info.version)
        self._bell.ring()

    def changed(self, stream_id: str) -> None:
        """This store deleted the stream, or changed it, or may have."""
        self._outbox.may_be_gone(stream_id)
        self._bell.ring()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._keep_connected())

    async def stop(self) -> None:
        """Send what is left to send, for `FAREWELL_SECONDS` at most, and disconnect."""
        self._is_closing = True
        self._bell.ring()
        self._closing_bell.ring()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=FAREWELL_SECONDS)
            self.abandon()
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Cancel the background task without waiting for it."""
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    @property
    def _is_finished(self) -> bool:
        return self._is_closing and not self._outbox

    async def _keep_connected(self) -> None:
        """Keep a connection until the store is closed and everything has been sent."""
        # No connection before it is needed: a process that only reads should not take a second
        # one.
        await self._bell.wait(None)
        self._bell.ring()
        while not self._is_finished:
            is_last_attempt = self._is_closing
            try:
                async with self._database.reserved() as connection:
                    with translate_errors():
                        await self._serve(connection)
            except StreamStoreError as exc:
                if is_last_attempt:
                    return  # followers elsewhere will find the last changes by their poll
                if not self._is_closing:
                    if observation.observer is not None:
                        observation.observer.notices_interrupted("postgres")
                    self._connect_backoff.failed(exc)
                    await self._closing_bell.wait(self._connect_backoff.pause())

    async def _serve(self, connection: Connection) -> None:
        """Listen and send on this connection; raises when it is lost."""
        self._listen_at, self._echo_by = 0.0, math.inf
        connection.add_termination_listener(self._on_lost)
        try:
            # Before LISTEN, since it is listening that makes a silent client a burden.
            await _end_silent_session(connection)
            while not self._is_finished:
                if self._is_listen_due:
                    await self._listen(connection)
                if not await self._bell.wait(self._seconds_to_next()):
                    await self._check(connection)
                await self._send(connection)
        finally:
            connection.remove_termination_listener(self._on_lost)
            await self._unlisten(connection)

    @property
    def _is_listen_due(self) -> bool:
        may_listen = self._is_wanted and not self._is_listening and not self._is_closing
        return may_listen and time.monotonic() >= self._listen_at

    def _seconds_to_next(self) -> float:
        """How long the loop may sleep if nothing happens."""
        now, due = time.monotonic(), PROBE_SECONDS
        if self._is_listening:
            due = min(due, self._echo_by - now)
        elif self._is_wanted:
            due = min(due, self._listen_at - now)
        return max(due, 0.0)

    async def _check(self, connection: Connection) -> None:
        """Nothing has happened for a while: see whether that is for a reason."""
        # A connection whose peer has vanished looks like a quiet one. Only an answer tells them
        # apart. It also comes behind an echo that this process was too busy to take.
        await connection.execute("SELECT 1", timeout=ANSWER_SECONDS)
        if self._is_listening and time.monotonic() >= self._echo_by:
            await self._stop_listening(connection, StoreUnavailable(_NO_ECHO))

    async def _listen(self, connection: Connection) -> None:
        """LISTEN, and send a notice to ourselves from another connection.

        Only that notice proves that listening works: a pooler in transaction mode accepts
        LISTEN and gives it to a session that another client may get.
        """
        try:
            listening = connection.add_listener(self._channel, self._on_notify)
            await in_time(listening, ANSWER_SECONDS)
            # Both before the echo is sent: it may arrive while the sending call, which has a
            # bound of its own, has not returned.
            self._is_listening = True
            self._echo_by = time.monotonic() + 2 * ECHO_SECONDS
            await self._send_echo()
        except (asyncpg.PostgresError, StreamStoreError) as exc:
            if connection.is_closed():
                raise
            await self._stop_listening(connection, exc)

    async def _send_echo(self) -> None:
        # From another connection: a session hears its own notice, which behind a pooler proves
        # nothing.
        sending = self._database.run(_NOTIFY, self._channel, [self._echo])
        try:
            await in_time(sending, ECHO_SECONDS)
        except asyncio.TimeoutError:
            raise StoreUnavailable("no connection was free to test notices with") from None

    async def _stop_listening(self, connection: Connection, reason: Exception) -> None:
        """Go on without LISTEN on this connection, and try it again later."""
        # A store that is being closed refuses statements a moment before this is told.
        if not self._is_closing and not isinstance(reason, InvalidRequest):
            if observation.observer is not None:
                observation.observer.notices_interrupted("postgres")
            self._listen_backoff.failed(reason)
        self._listen_at = time.monotonic() + self._listen_backoff.pause()
        await self._unlisten(connection)

    async def _unlisten(self, connection: Connection) -> None:
        if self._is_listening:
            self._is_listening = False
            self._echo_by = math.inf
            with suppress(StreamStoreError), translate_errors():
                unlistening = connection.remove_listener(self._channel, self._on_notify)
                await in_time(unlistening, ANSWER_SECONDS)

    async def _send(self, connection: Connection) -> None:
        """Send what has gathered; raises if the connection is lost."""
        while self._outbox:
            taken = self._outbox.take()
            payloads = [*payloads_of(self._origin, taken)]
            try:
                await connection.execute(
                    _NOTIFY, self._channel, payloads, timeout=ANSWER_SECONDS
                )
            except BaseException:
                # A notice that goes out twice costs its subscribers a look. If it were lost,
                # they would wait for their next poll.
                self._outbox.put_back(taken)
                raise
            self._connect_backoff.succeeded()
            # After the notice and not before it, so that the first change of a quiet store goes
            # out at once.
            is_busy = len(taken) >= MANY_STREAMS
            await asyncio.sleep(BUSY_SPACING_SECONDS if is_busy else SPACING_SECONDS)
        if connection.is_closed():
            raise StoreUnavailable("the connection for notices was lost")

    def _on_notify(self, connection: object, pid: int, channel: str, payload: object) -> None:
        if payload == self._echo:
            self._on_echo()
            return
        origin, changes = parse_payload(str(payload))
        if origin == self._origin:
            return
        for stream_id, version in changes:
            if stream_id is None:
                self.changes.noticed_all()
            else:
                self.changes.noticed(stream_id, version)

    def _on_echo(self) -> None:
        """Listening works from here on; what happened before has to be looked for."""
        self._echo_by = math.inf
        self._connect_backoff.succeeded()
        self._listen_backoff.succeeded()
        # Changes that were committed before LISTEN took effect have had no notice here.
        self.changes.noticed_all()

    def _on_lost(self, connection: object) -> None:
        self._bell.ring()


class _Backoff:
    """Growing pauses between attempts, and a warning at the first failure of a series."""

    def __init__(self) -> None:
        self._shortest, self._longest = BACKOFF_SECONDS
        self._seconds = self._shortest
        self._has_warned = False

    def failed(self, reason: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "no notices for now, followers poll: %s",
                reason,
                extra=logs.event("notices.interrupted"),
            )

    def pause(self) -> float:
        """The seconds to wait now; the next pause will be longer."""
        seconds = self._seconds * random.uniform(0.5, 1.5)
        self._seconds = min(2 * self._seconds, self._longest)
        return seconds

    def succeeded(self) -> None:
        self._seconds = self._shortest
        self._has_warned = False


async def _end_silent_session(connection: Connection) -> None:
    """Have the server end this session if the client takes nothing for `SILENCE_SECONDS`."""
    milliseconds = str(SILENCE_SECONDS * 1_000)
    with suppress(asyncpg.PostgresError):  # a server or proxy that does not know the setting
        await connection.execute(_END_A_SILENT_SESSION, milliseconds, timeout=ANSWER_SECONDS)
