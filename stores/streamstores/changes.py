"""The in-process table of who wants to hear of which stream, held by each backend.

A backend tells it of every mutation it committed itself (`committed`), of every stream that
ended, and of every notice that arrived from elsewhere (`noticed`, `noticed_all`). A notice
only makes the watcher ask the backend again, so one too many does no harm, and one too few
is mended by the poll. One that tells all that changed (`appended`) spares the question,
where it follows directly on what the watcher knows; everywhere else it is like the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone

from streamstores.errors import StoreUnavailable, StreamNotFound
from streamstores.store import Record, StreamInfo

_LONGEST_SLEEP = 86_400.0

Absorb = Callable[[StreamInfo, Sequence[Record]], bool]


class Bell:
    """A flag that one party sets and one other waits for, much cheaper than an Event and a
    `wait_for`."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._rung = False

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a ring, at most `timeout` seconds; True, and cleared, if there was one."""
        if not self._rung and (timeout is None or timeout > 0):
            await self._sleep(timeout)
        rung, self._rung = self._rung, False
        return rung

    async def _sleep(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None
        if timeout is not None:
            timer = loop.call_later(min(timeout, _LONGEST_SLEEP), _finish, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


class Subscription(Bell):
    """One party's interest in one stream.

    `absorb` takes a mutation in full, of this process or from a notice; where it says True,
    the watcher knows all that was changed and is not woken. `info` is the newest one that the
    watcher knows, where it says so: a notice of its version or an older one does not wake it.
    """

    __slots__ = ("_absorb", "_changes", "_closed", "info", "stream_id")

    def __init__(self, changes: Changes, stream_id: str, absorb: Absorb | None) -> None:
        super().__init__()
        self.stream_id = stream_id
        self._changes = changes
        self.info: StreamInfo | None = None
        self._absorb = absorb
        self._closed = False

    def committed(self, info: StreamInfo, records: Sequence[Record]) -> None:
        if self._absorb is None or not self._absorb(info, records):
            self.ring()

    def noticed(self, version: int | None) -> None:
        if version is None or self.info is None or version > self.info.version:
            self.ring()

    def appended(
        self,
        version: int,
        records: Sequence[Record],
        ttl: float | None,
        expires_at: datetime | None,
    ) -> None:
        known = self.info
        if known is None or version != known.version + 1:
            self.noticed(version)
        else:
            tail = records[-1].end if records else known.tail
            info = known._replace(tail=tail, version=version, ttl=ttl, expires_at=expires_at)
            self.committed(info, records)

    def shut(self) -> None:
        self._closed = True
        self.ring()

    async def wait(self, timeout: float | None) -> bool:
        """As a bell's; raises `StoreUnavailable` when the store is closed."""
        rung = await super().wait(0 if self._closed else timeout)
        if self._closed:
            raise StoreUnavailable("the store was closed")
        return rung

    def start(self) -> Subscription:
        """Begin to hear, until `stop`; or enter it."""
        self._changes.add(self)
        return self

    def stop(self) -> None:
        self._changes.remove(self)

    def __enter__(self) -> Subscription:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Changes:
    """The table of subscriptions.

    `on_interest(stream_id, watched)` hears of a stream's first watcher and of its last.
    """

    def __init__(self, on_interest: Callable[[str, bool], None] | None = None) -> None:
        self.subscriptions: dict[str, list[Subscription]] = {}
        """By stream id, for `add` and `remove` to change; a stream that nobody subscribes to is
        not in it."""
        self._on_interest = on_interest
        self._closed = False

    def subscribe(self, stream_id: str, absorb: Absorb | None = None) -> Subscription:
        """A subscription, registered while it is entered. Enter it before reading: then nothing
        can slip between the read and the wait."""
        return Subscription(self, stream_id, absorb)

    def add(self, subscription: Subscription) -> None:
        subscriptions = self.subscriptions.get(subscription.stream_id)
        if subscriptions is None:
            self.subscriptions[subscription.stream_id] = [subscription]
            if self._on_interest is not None:
                self._on_interest(subscription.stream_id, True)
        else:
            subscriptions.append(subscription)
        if self._closed:
            subscription.shut()

    def remove(self, subscription: Subscription) -> None:
        subscriptions = self.subscriptions.get(subscription.stream_id)
        if subscriptions is None or subscription not in subscriptions:
            return
        subscriptions.remove(subscription)
        if not subscriptions:
            del self.subscriptions[subscription.stream_id]
            if self._on_interest is not None:
                self._on_interest(subscription.stream_id, False)

    @property
    def subscribed_ids(self) -> list[str]:
        """The ids that somebody subscribes to now."""
        return list(self.subscriptions)

    def committed(self, info: StreamInfo, records: Sequence[Record] = ()) -> None:
        """This store applied a mutation: `info` is its result, `records` what it added."""
        for subscription in self.subscriptions.get(info.id, ()):
            subscription.committed(info, records)

    def noticed(self, stream_id: str, version: int | None = None) -> None:
        """The stream may have changed, ended or begun anew, here or elsewhere.

        `version` is the one it has reached, where the notice tells and the stream has not
        ended: whoever knows it already is left alone, so one's own commits cost no read.
        """
        for subscription in self.subscriptions.get(stream_id, ()):
            subscription.noticed(version)

    def appended(
        self,
        stream_id: str,
        version: int,
        records: Sequence[Record],
        ttl: float | None,
        expires_at: datetime | None,
    ) -> None:
        """A notice of a mutation elsewhere that added `records`, perhaps none, reached
        `version`, and changed neither state nor error nor attributes.

        `ttl` and `expires_at` are the stream's after it. Who knows the stream as it was right
        before has no need to read: versions begin at random and grow by one, so the next
        one is the next mutation of the same stream. To everybody else it is a notice.
        """
        for subscription in self.subscriptions.get(stream_id, ()):
            subscription.appended(version, records, ttl, expires_at)

    def noticed_all(self) -> None:
        """Notices may have been lost: everybody asks again."""
        for subscriptions in self.subscriptions.values():
            for subscription in subscriptions:
                subscription.ring()

    def close(self) -> None:
        self._closed = True
        for subscriptions in self.subscriptions.values():
            for subscription in subscriptions:
                subscription.shut()

    async def wait(
        self,
        info: Callable[[str], Awaitable[StreamInfo]],
        stream_id: str,
        *,
        version: int,
        timeout: float,
        poll_interval: float,
    ) -> StreamInfo:
        """`StreamStore.wait`, made of a store's `info` and its notices: one `info` at first
        and one for each notice."""
        deadline = time.monotonic() + timeout
        with self.subscribe(stream_id) as subscription:
            first = current = await info(stream_id)
            while current.version == version:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                await subscription.wait(min(left, recheck_after(current, poll_interval)))
                current = await info(stream_id)
                if is_namesake(first, current):
                    raise StreamNotFound(stream_id)
            return current


def is_namesake(earlier: StreamInfo, later: StreamInfo) -> bool:
    """Whether `later` is another stream that was begun under the same id (clause 11)."""
    return later.created_at != earlier.created_at or later.version < earlier.version


def recheck_after(info: StreamInfo, poll_interval: float) -> float:
    """Seconds to the next look at a quiet stream: the poll, or its end if that is sooner.

    The end is on the backend's clock; where this machine's is wrong the poll still finds it.
    """
    if info.expires_at is None:
        return poll_interval
    to_the_end = (info.expires_at - datetime.now(timezone.utc)).total_seconds()
    return min(poll_interval, max(to_the_end, 0.0) + 0.05)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
