"""One pub/sub connection: subscriptions that come and go, and a probe for silence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from redis.asyncio.connection import Connection
from redis.exceptions import MovedError, RedisError

from streamstores.backends._redis.connections import close_connection, start_task
from streamstores.backends._redis.transports import CommandTransport, open_transport
from streamstores.changes import Bell

PROBE_SECONDS = 10.0
"""A connection that is silent for this long is sent a PING, and is taken for dead after as long
again without an answer."""

CHANNELS_PER_COMMAND = 500


class _Command(NamedTuple):
    """A command that is still owed a reply for each of these channels."""

    is_joining: bool
    channels: set[bytes]


class PubSubConnection:
    """A connection that listens to channels, for as long as it lives.

    `connect` opens it, within `timeout` seconds, and says whether its channels are sharded.
    `on_message(channel, data)` gets each message, and None as the data once a subscription
    holds. `on_moved(channel)` gets a sharded channel that this node of a cluster no longer has.
    `failure` says, once `task` has ended, why the connection broke.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[tuple[Connection, bool]]],
        timeout: float,
        on_message: Callable[[bytes, bytes | None], None],
        on_moved: Callable[[bytes], None] | None = None,
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._on_message = on_message
        self._on_moved = on_moved
        self._wanted: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._changed: set[bytes] = set()
        self._unanswered: deque[_Command] = deque()
        self._work = Bell()
        self._loop = asyncio.get_running_loop()
        self._is_probed = False
        self._probe_at = self._loop.time() + PROBE_SECONDS
        self.was_heard = False
        """Whether any message has come."""
        self.failure: Exception | None = None
        self.task = start_task(self._listen(), "redis pub/sub")

    def add(self, channel: bytes) -> None:
        self._wanted.add(channel)
        self._changed.add(channel)
        self._work.ring()

    def drop(self, channel: bytes) -> None:
        self._wanted.discard(channel)
        self._changed.add(channel)
        self._work.ring()

    def hang_up(self) -> None:
        self.task.cancel()

    async def _listen(self) -> None:
        """Connect, and listen until the connection breaks; `failure` then says why."""
        try:
            connection, is_sharded = await self._connect_in_time()
            try:
                await self._converse(open_transport(connection, self._take), is_sharded)
            finally:
                await close_connection(connection)
        except (RedisError, OSError, asyncio.TimeoutError) as exc:
            self.failure = exc
        except asyncio.CancelledError:
            # `_give_up` cancels this task too, with `failure` set: that is a timeout, and no
            # cancellation by a caller.
            if self.failure is None:
                raise

    async def _connect_in_time(self) -> tuple[Connection, bool]:
        """`wait_for` would not do: before Python 3.12 it may lose an opened connection."""
        timer = self._loop.call_later(self._timeout, self._give_up)
        try:
            return await self._connect()
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.failure = TimeoutError(f"no connection in {self._timeout} seconds")
        self.task.cancel()

    async def _converse(self, transport: CommandTransport, is_sharded: bool) -> None:
        transport.lost.add_done_callback(lambda _: self._work.ring())
        while not transport.lost.done():
            self._subscribe(transport, is_sharded)
            self._probe(transport)
            await self._work.wait(self._probe_at - self._loop.time())
        transport.lost.result()

    def _subscribe(self, transport: CommandTransport, is_sharded: bool) -> None:
        """Tell the server which subscriptions have changed."""
        changed, self._changed = self._changed, set()
        wanted = changed & self._wanted
        joining = wanted - self._asked
        leaving = (changed - wanted) & self._asked
        self._asked = (self._asked | joining) - leaving
        # One command may name the sharded channels of one slot only.
        size = 1 if is_sharded else CHANNELS_PER_COMMAND
        prefix = b"S" if is_sharded else b""
        for verb, channels in ((b"SUBSCRIBE", joining), (b"UNSUBSCRIBE", leaving)):
            for some in _in_parts(list(channels), size):
                self._unanswered.append(_Command(channels is joining, set(some)))
                transport.send((prefix + verb, *some))

    def _probe(self, transport: CommandTransport) -> None:
        if self._loop.time() < self._probe_at:
            return
        if self._is_probed:
            raise ConnectionError("no sign of life from the pub/sub connection")
        transport.send((b"PING",))
        self._is_probed = True
        self._probe_at = self._loop.time() + PROBE_SECONDS

    def _take(self, message: Any) -> None:
        """Take a message, a reply to a command, or an error."""
        # Any message is a sign of life.
        self._is_probed = False
        self._probe_at = self._loop.time() + PROBE_SECONDS
        if isinstance(message, list):
            self.was_heard = True
            kind, channel, *rest = cast("list[bytes]", message)
            if kind in (b"message", b"smessage"):
                # Messages may be under way when a channel is dropped.
                if channel in self._wanted:
                    self._on_message(channel, rest[0])
            elif kind in (b"subscribe", b"ssubscribe"):
                self._take_answer(channel)
                if channel in self._wanted:
                    self._on_message(channel, None)
            elif kind in (b"unsubscribe", b"sunsubscribe") and not self._take_answer(channel):
                self._lose_channel(channel)
        elif isinstance(message, MovedError) and self._unanswered:
            self._take_redirection()
        elif isinstance(message, Exception):
            raise message
        # Anything else is the answer to a probe without subscriptions.

    def _take_answer(self, channel: bytes) -> bool:
        """Whether this answers the oldest command; an unsubscription may come unasked."""
        if not self._unanswered or channel not in self._unanswered[0].channels:
            return False
        self._unanswered[0].channels.discard(channel)
        if not self._unanswered[0].channels:
            self._unanswered.popleft()
        return True

    def _take_redirection(self) -> None:
        """The error names no channel, but replies come in the order of the commands."""
        command = self._unanswered.popleft()
        for channel in command.channels if command.is_joining else ():
            self._lose_channel(channel)

    def _lose_channel(self, channel: bytes) -> None:
        """The server no longer has this channel; the others on the connection stay."""
        self._asked.discard(channel)
        if channel in self._wanted:
            self._wanted.discard(channel)
            if self._on_moved is not None:
                self._on_moved(channel)


def _in_parts(channels: list[bytes], size: int) -> list[list[bytes]]:
    return [channels[start : start + size] for start in range(0, len(channels), size)]
