"""The channels of followed streams: one pub/sub connection for each server that has some."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from streamstores import logs, observation
from streamstores.backends._redis.connections import Endpoint, start_task
from streamstores.backends._redis.pubsub import PubSubConnection
from streamstores.backends._redis.router import Router, name_of
from streamstores.backends._redis.scripts import news_in, notice_of
from streamstores.changes import Bell, Changes

SHORTEST_DELAY, LONGEST_DELAY = 0.05, 5.0
FAILURES_TO_REPORT = 3  # in a row: one or two are a restart

_TOPOLOGY = ""  # the name under which a failure to find a server is counted

_logger = logging.getLogger("streamstores.redis")

_IS_SHARDED = b"return redis.REDIS_VERSION_NUM and 1 or 0"  # as the scripts see it


class NoticeChannels:
    """The subscriptions of a store: the channel of each stream that is followed, no other.

    A notice wakes the followers of its stream in `changes`. So does the server's confirmation
    of a subscription, at first and after a lost connection: what happened before it was not
    heard and has to be looked up.
    """

    def __init__(
        self,
        router: Router,
        channel_of: Callable[[str], bytes],
        stream_of: Callable[[bytes], str],
    ) -> None:
        self.changes = Changes(on_interest=self._set_interest)
        self._router = router
        router.on_break = self.changes.noticed_all
        router.on_switch = self._reconnect
        self._channel_of = channel_of
        self._stream_of = stream_of
        self._wanted: set[str] = set()
        self._placed: dict[str, PubSubConnection] = {}
        self._changed: set[str] = set()  # wanted and not placed, or placed and not wanted
        self._stale: set[bytes] = set()  # channels whose server has to be looked up anew
        self._connections: dict[str, PubSubConnection] = {}
        self._failures: dict[str, int] = {}  # by server, since its last message
        self._retry_at: dict[str, float] = {}
        self._work = Bell()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def _set_interest(self, stream_id: str, is_followed: bool) -> None:
        """Subscribe or unsubscribe soon; interest that comes and goes at once costs nothing."""
        if self._is_closed:
            return  # and start no task that nothing would end
        if is_followed:
            self._wanted.add(stream_id)
        else:
            self._wanted.discard(stream_id)
        self._changed.add(stream_id)
        self._work.ring()
        if self._task is None:
            self._task = start_task(self._keep_subscribed(), "redis notices")

    def hang_up(self) -> None:
        """Stop without waiting."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        for connection in self._connections.values():
            connection.hang_up()

    async def aclose(self) -> None:
        self.hang_up()
        tasks = [each.task for each in self._connections.values()]
        if self._task is not None:
            tasks.append(self._task)
        if tasks:
            await asyncio.wait(tasks)

    def _reconnect(self) -> None:
        """Another server is the master: listen there."""
        for connection in self._connections.values():
            connection.hang_up()

    async def _keep_subscribed(self) -> None:
        loop = asyncio.get_running_loop()
        timeout: float | None = None
        while True:
            await self._work.wait(timeout)
            try:
                await self._place_all(loop.time())
            except (RedisError, OSError, asyncio.TimeoutError) as exc:
                self._count_failure(_TOPOLOGY, exc)
            waiting = [at for at in self._retry_at.values() if at > loop.time()]
            timeout = min(waiting) - loop.time() if waiting and self._changed else None

    async def _place_all(self, now: float) -> None:
        """Give each wanted stream to the connection of its server, and drop the others.

        A server that has just failed gets no stream before its pause is over.
        """
        if self._retry_at.get(_TOPOLOGY, 0.0) > now:
            return
        # Each moved slot by itself: the client learns it when that slot's node redirects it.
        while self._stale:
            channel = next(iter(self._stale))
            await self._router.refresh(channel)
            self._stale.discard(channel)
        # A copy, because interest comes and goes while a server is looked up.
        for stream_id in list(self._changed):
            if stream_id in self._wanted and stream_id not in self._placed:
                endpoint = await self._router.endpoint_of(self._channel_of(stream_id))
                if self._retry_at.get(name_of(endpoint), 0.0) > now:
                    continue
            else:
                endpoint = None
            self._place(stream_id, endpoint)

    def _place(self, stream_id: str, endpoint: Endpoint | None) -> None:
        """Without an `await`, so that what is wanted cannot change meanwhile."""
        channel = self._channel_of(stream_id)
        if stream_id not in self._wanted:
            if stream_id in self._placed:
                self._placed.pop(stream_id).drop(channel)
        elif stream_id not in self._placed:
            if endpoint is None:
                return
            connection = self._placed[stream_id] = self._connection_to(endpoint)
            connection.add(channel)
        self._changed.discard(stream_id)

    def _connection_to(self, endpoint: Endpoint) -> PubSubConnection:
        name = name_of(endpoint)
        connection = self._connections.get(name)
        if connection is None:
            connection = self._connections[name] = PubSubConnection(
                partial(self._connect, endpoint),
                self._router.timeout,
                partial(self._heard, name),
                self._moved,
            )
            connection.task.add_done_callback(lambda _: self._lost(name))
        return connection

    async def _connect(self, endpoint: Endpoint) -> tuple[Connection, bool]:
        connection = await self._router.connect(endpoint)
        if not self._router.is_cluster:
            return connection, False
        await connection.send_command("EVAL", _IS_SHARDED, 0)
        typed: Any = connection  # redis-py annotates no reply
        return connection, bool(await typed.read_response())

    def _heard(self, name: str, channel: bytes, message: bytes | None) -> None:
        """Tell the followers what a notice says; None says that the subscription holds."""
        # Only a message counts as success: a server that accepts the connection and refuses to
        # subscribe would otherwise be tried without a pause.
        if self._failures or self._retry_at:
            self._failures.pop(name, None)
            self._retry_at.pop(name, None)
        if message is None:
            self.changes.look_at([self._stream_of(channel)])
            return
        notice = notice_of(message)
        # The store's own may come before the reply, which tells everything that it would.
        if self._router.is_own(notice.sender):
            return
        stream_id = self._stream_of(channel)
        news = news_in(notice.news) if notice.news else None
        if news is None or notice.version is None:
            self.changes.noticed(stream_id, notice.version)
        else:
            self.changes.appended(stream_id, notice.version, *news)

    def _moved(self, channel: bytes) -> None:
        """A slot is on another server: subscribe there, and look at the stream at once."""
        stream_id = self._stream_of(channel)
        self._placed.pop(stream_id, None)
        self._changed.add(stream_id)
        self._stale.add(channel)
        self._work.ring()
        self.changes.noticed(stream_id)

    def _lost(self, name: str) -> None:
        """A connection has ended: its streams need another, perhaps to another server."""
        connection = self._connections.pop(name)
        if self._is_closed:
            return
        lost = [each for each, placed in self._placed.items() if placed is connection]
        for stream_id in lost:
            del self._placed[stream_id]
            self._changed.add(stream_id)
        if lost:
            # One channel is enough: a client that cannot reach a node learns all slots anew.
            self._stale.add(self._channel_of(lost[0]))
        if connection.failure is not None:  # else another master was announced
            self._count_failure(name, connection.failure)
        self._work.ring()

    def _count_failure(self, name: str, exc: Exception) -> None:
        """Note that a server failed, when it may be tried again, and the third time say so."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        if observation.observer is not None:
            observation.observer.notices_interrupted("redis")
        if failures > 1:  # the first attempt to connect anew is made at once
            longest = min(SHORTEST_DELAY * 2.0 ** min(failures, 16), LONGEST_DELAY)
            delay = longest * random.uniform(0.5, 1.0)
            self._retry_at[name] = asyncio.get_running_loop().time() + delay
        self._work.ring()
        if failures == FAILURES_TO_REPORT:
            _logger.warning(
                "no notices from Redis, so followers poll until it is back: %s",
                str(exc) or type(exc).__name__,
                extra=logs.event("notices.interrupted"),
            )
