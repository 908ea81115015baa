"""Hearing of changes: one pub/sub connection for each server that has a followed stream."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from streamstores.backends._redis.connecting import Source, disconnect, start
from streamstores.backends._redis.links import Links
from streamstores.backends._redis.scripts import SUBSCRIBED, Notice, news_in, notice_of
from streamstores.backends._redis.wire import Wire
from streamstores.changes import Bell, Changes

PROBE_SECONDS = 10.0
"""After this long without a word the connection is asked whether it lives, and after as long
again it is taken for dead."""

SHORTEST_DELAY, LONGEST_DELAY = 0.05, 5.0
MOST_CHANNELS = 500  # in one command
FAILURES_TO_REPORT = 3  # in a row: one or two are a restart

_logger = logging.getLogger("streamstores.redis")

OnNotice = Callable[[str, Notice], None]
_IS_SHARDED = b"return redis.REDIS_VERSION_NUM and 1 or 0"  # as the scripts see it


class Notices:
    """The subscriptions of a store: of each stream that is watched, no other.

    A notice wakes the watchers of its stream in `changes`, and so does the server's word that
    a subscription holds, at first or after a lost connection: what happened before that was
    not heard, so it has to be looked up.
    """

    def __init__(self, links: Links, channel_of: Callable[[str], bytes]) -> None:
        self.changes = Changes(on_interest=self._watch)
        self._links = links
        links.on_break = self.changes.noticed_all
        self._channel_of = channel_of
        self._wanted: set[str] = set()
        self._placed: dict[str, _Listener] = {}
        self._changed: set[str] = set()  # wanted and not placed, or placed and not wanted
        self._listeners: dict[str, _Listener] = {}
        self._work = Bell()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._is_closed = False

    def _watch(self, stream_id: str, watched: bool) -> None:
        """Begin or end to listen, soon: what comes and goes at once costs nothing."""
        if self._is_closed:
            return
        if watched:
            self._wanted.add(stream_id)
        else:
            self._wanted.discard(stream_id)
        self._changed.add(stream_id)
        self._work.ring()
        if self._task is None:
            self._task = start(self._run(), "redis notices")

    def hang_up(self) -> None:
        """Stop without waiting."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        for listener in self._listeners.values():
            listener.task.cancel()

    async def aclose(self) -> None:
        self.hang_up()
        tasks = [each.task for each in self._listeners.values()]
        if self._task is not None:
            tasks.append(self._task)
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            await self._work.wait(None)
            try:
                await self._place()
            except (RedisError, OSError, asyncio.TimeoutError) as exc:
                self._failed(exc)
            if self._failures:
                await asyncio.sleep(_delay(self._failures))

    async def _place(self) -> None:
        """Give each wanted stream to the listener of its server, and take the others away."""
        if self._failures:
            await self._links.refresh(self._channel_of(next(iter(self._changed))))
        while self._changed:
            stream_id = next(iter(self._changed))
            channel = self._channel_of(stream_id)
            source = await self._links.source(channel)
            if stream_id not in self._wanted:
                if stream_id in self._placed:
                    self._placed.pop(stream_id).drop(channel)
            elif stream_id not in self._placed:
                listener = self._placed[stream_id] = self._listener(source)
                listener.add(channel, stream_id)
            self._changed.discard(stream_id)

    def _listener(self, source: Source) -> _Listener:
        name = getattr(source, "name", "")
        listener = self._listeners.get(name)
        if listener is None:
            listener = self._listeners[name] = _Listener(self._links, source, self._heard)
            listener.task.add_done_callback(lambda _: self._lost(name))
        return listener

    def _heard(self, stream_id: str, notice: Notice) -> None:
        self._failures = 0
        # One's own may come before the reply to it, which tells all that it would tell.
        if self._links.is_own(notice.sender):
            return
        news = news_in(notice.news) if notice.news else None
        if news is None or notice.version is None:
            self.changes.noticed(stream_id, notice.version)
        else:
            self.changes.appended(stream_id, notice.version, *news)

    def _lost(self, name: str) -> None:
        """A listener has ended: its streams need another one, perhaps elsewhere."""
        listener = self._listeners.pop(name)
        for stream_id in [key for key, each in self._placed.items() if each is listener]:
            del self._placed[stream_id]
            self._changed.add(stream_id)
        self._failed(listener.failure)

    def _failed(self, exc: Exception | None) -> None:
        self._failures += 1
        self._work.ring()
        if self._failures == FAILURES_TO_REPORT:
            _logger.warning(
                "no notices from Redis, so followers poll until it is back: %s", exc
            )


class _Listener:
    """One pub/sub connection, for as long as it lives."""

    def __init__(self, links: Links, source: Source, on_notice: OnNotice) -> None:
        self._links = links
        self._source = source
        self._on_notice = on_notice
        self._wanted: dict[bytes, str] = {}
        self._asked: set[bytes] = set()
        self._changed: set[bytes] = set()
        self._leaving: list[bytes] = []  # asked to leave, and not confirmed yet
        self._work = Bell()
        self._loop = asyncio.get_running_loop()
        self._is_probed = False
        self._probe_at = self._loop.time() + PROBE_SECONDS
        self.failure: Exception | None = None
        self.task = start(self._run(), "redis listener")

    def add(self, channel: bytes, stream_id: str) -> None:
        self._wanted[channel] = stream_id
        self._changed.add(channel)
        self._work.ring()

    def drop(self, channel: bytes) -> None:
        self._wanted.pop(channel, None)
        self._changed.add(channel)
        self._work.ring()

    async def _run(self) -> None:
        """Listen until the connection is lost; whoever started this begins anew then."""
        try:
            connection = await self._links.connect(self._source)
            try:
                prefix = b"S" if await self._is_sharded(connection) else b""
                await self._talk(Wire(connection, self._take), prefix)
            finally:
                await disconnect(connection)
        except (RedisError, OSError, asyncio.TimeoutError) as exc:
            self.failure = exc

    async def _is_sharded(self, connection: Connection) -> bool:
        if not self._links.is_cluster:
            return False
        await connection.send_command(b"EVAL", _IS_SHARDED, 0)
        return bool(await connection.read_response())

    async def _talk(self, wire: Wire, prefix: bytes) -> None:
        wire.lost.add_done_callback(lambda _: self._work.ring())
        while not wire.lost.done():
            self._subscribe(wire, prefix)
            self._probe(wire)
            await self._work.wait(self._probe_at - self._loop.time())
        wire.lost.result()

    def _subscribe(self, wire: Wire, prefix: bytes) -> None:
        """Tell the server what is wanted, where that has changed."""
        changed, self._changed = self._changed, set()
        wanted = {channel for channel in changed if channel in self._wanted}
        joining = wanted - self._asked
        leaving = (changed - wanted) & self._asked
        self._asked = (self._asked | joining) - leaving
        self._leaving += leaving
        # Of a cluster's channels one command may name those of one slot only.
        size = 1 if prefix else MOST_CHANNELS
        for verb, channels in ((b"SUBSCRIBE", joining), (b"UNSUBSCRIBE", leaving)):
            for some in _in_parts(list(channels), size):
                wire.send((prefix + verb, *some))

    def _probe(self, wire: Wire) -> None:
        if self._loop.time() < self._probe_at:
            return
        if self._is_probed:
            raise ConnectionError("no sign of life from the pub/sub connection")
        wire.send((b"PING",))
        self._is_probed = True
        self._probe_at = self._loop.time() + PROBE_SECONDS

    def _take(self, message: Any) -> None:
        self._is_probed = False
        self._probe_at = self._loop.time() + PROBE_SECONDS
        if isinstance(message, Exception):
            raise message
        if not isinstance(message, list):
            return  # the answer to a probe while nothing is subscribed
        kind, channel, *rest = message
        if kind == b"sunsubscribe" and channel not in self._leaving:
            raise ConnectionError("the cluster moved the channel elsewhere")
        if kind in (b"unsubscribe", b"sunsubscribe"):
            self._leaving.remove(channel)
        elif channel in self._wanted:
            is_notice = kind in (b"message", b"smessage")
            notice = notice_of(rest[0]) if is_notice else SUBSCRIBED
            self._on_notice(self._wanted[channel], notice)


def _delay(failures: int) -> float:
    longest = min(SHORTEST_DELAY * 2.0 ** min(failures, 16), LONGEST_DELAY)
    return longest * random.uniform(0.5, 1.0)


def _in_parts(channels: list[bytes], size: int) -> list[list[bytes]]:
    return [channels[start : start + size] for start in range(0, len(channels), size)]
