"""Which server is the master, as Sentinel announces it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from streamstores import logs
from streamstores.backends._redis.connections import open_connection, start_task
from streamstores.backends._redis.pubsub import PubSubConnection

RECONNECT_SECONDS = 1.0
LONGEST_START_SECONDS = 1.0
FAILURES_TO_REPORT = 3  # in a row: fewer are a restart

_logger = logging.getLogger("streamstores.redis")

Address = tuple[str, int]


_SWITCHED = b"+switch-master"
_PROMOTING = b"+failover-state-send-slaveof-noone"  # sent right before the promotion
_ABORTED = b"-failover-abort-slave-timeout"


class MasterWatch:
    """The one view of a store of which server is the master.

    A demoted master accepts writes for about ten seconds after Sentinel has promoted a
    replica, and drops them when it is demoted itself. So the store listens to `+switch-master`
    on every sentinel of its client, and `on_switch(address)` breaks all its connections to
    other servers at once.

    The announcement follows the promotion by up to a second. What a demoted master accepts
    meanwhile is lost, and what it answers is outdated, so requests are held from the moment at
    which the leading sentinel says that it is about to promote a replica, for `timeout` seconds
    at most.

    A sentinel that did not lead the failover hears of it up to two seconds later. If two
    sentinels differ, the higher configuration epoch is right; its sentinel is asked first from
    then on.
    """

    def __init__(
        self, pool: SentinelConnectionPool, timeout: float, on_switch: Callable[[Address], None]
    ) -> None:
        self.service: str = pool.service_name
        self.timeout = timeout
        self._manager: Any = pool.sentinel_manager
        self._on_switch = on_switch
        self._address: Address | None = None
        self._epoch = 0
        self._listeners: list[_SentinelListener] = []
        self._held: asyncio.Future[None] | None = None  # done when requests may go on

    async def start(self) -> None:
        """Begin to listen, and wait until each sentinel was asked once or cannot be reached.

        Idempotent. A store that opens in the middle of a failover has missed its first event.
        """
        if not self._listeners:
            self._listeners = [
                _SentinelListener(self, each) for each in self._manager.sentinels
            ]
        unasked = [each.asked for each in self._listeners if not each.asked.done()]
        if unasked:
            await asyncio.wait(unasked, timeout=LONGEST_START_SECONDS)

    def hang_up(self) -> None:
        self.release()
        for listener in self._listeners:
            listener.hang_up()

    async def aclose(self) -> None:
        self.release()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.aclose()

    async def wait_for_promotion(self) -> None:
        """Return at once, or while a replica is being promoted, once its address is known."""
        if self._held is not None:
            await asyncio.wait([self._held])

    def hold(self) -> None:
        """A replica is about to be promoted."""
        if self._held is None:
            loop = asyncio.get_running_loop()
            self._held = held = loop.create_future()
            timer = loop.call_later(self.timeout, self.release)
            held.add_done_callback(lambda _: timer.cancel())

    def release(self) -> None:
        """The promotion has ended, or will not happen."""
        if self._held is not None:
            self._held.set_result(None)
            self._held = None

    async def admit(self, address: Address) -> None:
        """Take note of where a new connection leads; raise `ConnectionError` if another server
        has been announced since the connection asked for the master."""
        if self._address not in (None, address):
            current = await self._manager.discover_master(self.service)
            if current != address:
                raise ConnectionError(f"{address[0]}:{address[1]} is no longer the master")
        self._set(address)

    async def look(self, sentinel: Redis) -> None:
        """Ask this sentinel which server is the master, and believe it if it is up to date."""
        with suppress(RedisError, OSError, asyncio.TimeoutError):
            masters: Any = await sentinel.sentinel_masters()
            # Events carry no epoch, so they only say when to look.
            state = masters.get(self.service)
            if not state or int(state["config-epoch"]) < self._epoch:
                return
            self._epoch = int(state["config-epoch"])
            if "failover_in_progress" in state["flags"]:
                self.hold()
            # `discover_master` asks them in this order and believes the first that answers.
            sentinels: list[Any] = self._manager.sentinels
            sentinels.sort(key=lambda each: each is not sentinel)
            # Not from `state`: a subclass of redis-py's Sentinel may translate addresses.
            self._set(await self._manager.discover_master(self.service))

    def _set(self, address: Address) -> None:
        before, self._address = self._address, address
        if before not in (None, address):
            self._on_switch(address)
            self.release()


class _SentinelListener:
    """What one sentinel says to a `MasterWatch`, over one connection after another."""

    def __init__(self, watch: MasterWatch, sentinel: Redis) -> None:
        self._watch = watch
        self._sentinel = sentinel
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked = asyncio.get_running_loop().create_future()
        """Done once the sentinel was asked for the master, or cannot be reached."""
        self._keep(start_task(self._listen(), "redis sentinel"))

    def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        self.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _listen(self) -> None:
        """Listen until cancelled, with a new connection after each lost connection."""
        failures = 0
        while True:
            pubsub = PubSubConnection(self._connect, self._watch.timeout, self._take)
            for channel in (_SWITCHED, _PROMOTING, _ABORTED):
                pubsub.add(channel)
            self._keep(pubsub.task)
            pubsub.task.add_done_callback(self._was_asked)
            await asyncio.wait([pubsub.task])
            failures = 0 if pubsub.was_heard else failures + 1
            if failures == FAILURES_TO_REPORT:
                _logger.warning(
                    "no announcements from a sentinel, so a planned failover may be noticed "
                    "late: %s",
                    pubsub.failure,
                    extra=logs.event("notices.sentinel_silent"),
                )
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self) -> tuple[Connection, bool]:
        return await open_connection(self._sentinel.connection_pool, self._watch.timeout), False

    def _take(self, channel: bytes, data: bytes | None) -> None:
        """Take an event; None says that the subscription holds."""
        if data is not None and _master_in(channel, data) != self._watch.service:
            return
        if channel == _SWITCHED:
            # Once the subscription holds, too: the announcement may have been missed.
            task = start_task(self._watch.look(self._sentinel), "redis master")
            self._keep(task)
            task.add_done_callback(self._was_asked)
        elif data is not None and channel == _PROMOTING:
            self._watch.hold()
        elif data is not None:
            self._watch.release()

    def _was_asked(self, _: asyncio.Task[None]) -> None:
        if not self.asked.done():
            self.asked.set_result(None)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _master_in(channel: bytes, data: bytes) -> str:
    """The name of the master that an event is about.

    `<name> <old ip> <old port> <new ip> <new port>` when it has switched; of a replica
    otherwise: `slave <name> <ip> <port> @ <name of the master> <ip> <port>`.
    """
    words = data.decode().split()
    if channel == _SWITCHED:
        return words[0]
    return words[words.index("@") + 1] if "@" in words else ""
