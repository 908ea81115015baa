"""News of changes inside a process: the subscriptions to streams, and what they are told.

A backend holds one `Changes` and tells it

- `committed`: a mutation that this store object applied, with its result and its records;
- `noticed`: a stream changed, ended or began anew, here or elsewhere;
- `appended`: a mutation of another process whose notice brought its records along;
- `look_at`, `noticed_all`: notices may have been lost, because a connection was;
- `close`: the store is closed.

To `wait` and to followers a notice only means that they should ask the backend again, so a
superfluous notice does no harm, and `poll_interval` makes up for a lost notice. `committed` and
`appended` spare that question if they follow directly on what a follower knows; otherwise they
work like a notice.

A store that offers its `Changes` to followers declares `"changes"` in its capabilities: see
`SharesChanges`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Protocol, runtime_checkable

from streamstores._safety_look import Look, SafetyLook
from streamstores.errors import StoreUnavailable, StreamNotFound
from streamstores.store import StreamStore
from streamstores.values import Record, StreamInfo

__all__ = [
    "LONGEST_SLEEP",
    "Absorb",
    "Bell",
    "Changes",
    "SharesChanges",
    "Subscription",
    "changes_of",
    "is_namesake",
    "recheck_after",
    "subscribed",
]

LONGEST_SLEEP = 86_400.0  # longer timers overflow in some event loops

Absorb = Callable[[StreamInfo, Sequence[Record]], bool]


@runtime_checkable
class SharesChanges(Protocol):
    """A store whose followers may subscribe to its `Changes`: an option of the contract.

    It declares `"changes"` in its `capabilities` and promises about `changes`, which is the
    same object for as long as the store lives:

    - Before a mutation of this store object returns, `committed` was called with the info that
      it returns and the records that it added; or `noticed` was, if these are not at hand.
    - `committed` and `appended` tell only of what is in the backend, exactly as `read` and
      `info` show it. A refused mutation tells nothing; a mutation whose outcome is unknown is
      `noticed`.
    - When a stream is deleted, expired by `expire`, or begun anew, `noticed` is called.
    - Changes by other processes are `noticed`, as a rule within a fraction of a second.
    - When the store is closed, so is `changes`.

    Followers then read nothing that their own process appended, and read once for each change
    of another process. They find each other through `changes`, so stores with the same
    `changes` share the reads of their followers too.

    A wrapper around a store (for metrics, retries, access rights) delegates it in one line and
    loses nothing, even if it is made anew for each request:

        @property
        def changes(self) -> Changes:
            return self.inner.changes

    A wrapper that shows other ids, bytes or infos than its inner store must not: its followers
    would get what the inner store holds. It removes the capability instead, with
    `capabilities = inner.capabilities - {"changes"}`; then its followers call only its own
    `read`, `wait` and `info`, and those of one wrapper object share one reader. It may also
    hold a `Changes` of its own, if it can keep the promises above.
    """

    @property
    def changes(self) -> Changes: ...


def changes_of(store: StreamStore) -> Changes | None:
    """The `Changes` that the store offers to its followers; None if it offers none.

    A wrapper that copies the capabilities and forgets to delegate `changes` offers none: its
    followers go the slower way.
    """
    # The capability first: a proxy that passes every attribute on may still refuse to share.
    if "changes" not in store.capabilities:
        return None
    # Not isinstance: from Python 3.12 on a protocol does not see what __getattr__ passes on.
    changes: object = getattr(store, "changes", None)
    return changes if isinstance(changes, Changes) else None


class Bell:
    """A flag that a task waits for; much cheaper than an Event and `asyncio.wait_for`."""

    __slots__ = ("_loop", "_rung", "_waiter")

    def __init__(self) -> None:
        # Kept because get_running_loop asks for the process's id, before Python 3.12.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        # It is done, too, if its task was cancelled and has not run since.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._rung = False

    async def wait(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds for a ring and clear it; True if it rang."""
        if not self._rung and (timeout is None or timeout > 0):
            await self._sleep(timeout)
        rung, self._rung = self._rung, False
        return rung

    async def _sleep(self, timeout: float | None) -> None:
        """Wait for a ring or for the timer, whichever comes first."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None
        if timeout is not None:
            timer = loop.call_later(min(timeout, LONGEST_SLEEP), _finish, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


class Subscription(Bell):
    """A subscription to the changes of one stream, in force while it is entered.

    `absorb(info, records)` is given each mutation that is known in full. If it returns True,
    the subscriber knows everything about it and the bell is not rung.
    """

    __slots__ = ("_absorb", "_changes", "_closed", "info", "stream_id")

    def __init__(self, changes: Changes, stream_id: str, absorb: Absorb | None) -> None:
        super().__init__()
        self.stream_id: str = stream_id
        self.info: StreamInfo | None = None
        """The newest info that the subscriber knows, if it says so here: a notice of this
        version, or of an older version, does not ring."""
        self._changes = changes
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
        updated_at: datetime,
        ttl: float | None,
        expires_at: datetime | None,
    ) -> None:
        """Take the mutation as a commit if it follows on `info`, and else as a notice."""
        known = self.info
        if known is None or version != known.version + 1:
            # A notice was lost, came twice, or is a namesake's: only a read can tell.
            self.noticed(version)
        else:
            tail = records[-1].end if records else known.tail
            info = known._replace(
                tail=tail,
                version=version,
                updated_at=updated_at,
                ttl=ttl,
                expires_at=expires_at,
            )
            self.committed(info, records)

    def __repr__(self) -> str:
        return f"<Subscription to {self.stream_id!r}>"

    def shut(self) -> None:
        """The store is closed: end this wait and every later wait."""
        self._closed = True
        self.ring()

    async def wait_to_recheck(
        self, info: StreamInfo, poll_interval: float, timeout: float | None = None
    ) -> bool:
        """Wait until the backend has to be asked about the stream again, for `timeout` seconds
        at most: until the bell rings, the stream of this `info` expires, or `poll_interval`
        seconds are over, of which a safety look takes care if the store makes one.
        True if the bell rang."""
        if self._changes.makes_safety_looks:
            poll_interval = math.inf
        seconds = recheck_after(info, poll_interval)
        seconds = seconds if timeout is None else min(seconds, timeout)
        return await self.wait(None if seconds == math.inf else seconds)

    async def wait(self, timeout: float | None) -> bool:
        """As `Bell.wait`; raises `StoreUnavailable` when the store is closed."""
        rung = await super().wait(0 if self._closed else timeout)
        # Looked at again, because `shut` may have been what rang.
        if self._closed:
            raise StoreUnavailable("the store was closed")
        return rung

    def start(self) -> Subscription:
        """Hear of changes from now on, until `stop`."""
        self._changes.add(self)
        return self

    def stop(self) -> None:
        self._changes.remove(self)

    def __enter__(self) -> Subscription:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


@contextmanager
def subscribed(store: StreamStore, stream_id: str) -> Generator[Bell, None, None]:
    """A bell that rings when the stream changes, if the store shares its changes."""
    changes = changes_of(store)
    if changes is None:
        yield Bell()
    else:
        with changes.subscribe(stream_id) as subscription:
            yield subscription


class Changes:
    """The subscriptions of one store, and what tells them of changes. For one event loop.

    `on_interest(stream_id, True)` is called at the first subscription to a stream, and with
    False when its last subscription has ended: a backend that can listen for single streams
    does so in between.
    """

    def __init__(self, on_interest: Callable[[str, bool], None] | None = None) -> None:
        self.subscriptions: dict[str, list[Subscription]] = {}
        """By stream id; only `add` and `remove` change it. A stream without a subscription is
        not in it."""
        self.readers: dict[str, Any] = {}
        """The shared readers of followed streams, by stream id. They belong to `follow`."""
        self._on_interest = on_interest
        self._safety_look: SafetyLook | None = None
        self._closed = False

    def look_every(self, seconds: float, look: Look) -> None:
        """Find lost notices by one look for all streams that have a subscription, every
        `seconds`, which should be the store's `poll_interval`; otherwise each subscriber asks
        for its own stream as often.

        `look(known)` gets the ids of up to 2,000 streams, each with a version, and returns
        those whose version in the backend is another, with that version, or with None if the
        stream is gone. If it raises a `StreamStoreError`, every subscriber asks for itself,
        a crowd of them over an interval. `look_at` and `noticed_all` make a look at once.
        To be called before the first subscription.
        """
        self._safety_look = SafetyLook(self.subscriptions, look, seconds)

    @property
    def makes_safety_looks(self) -> bool:
        """Whether subscribers need not ask again while they hear nothing."""
        return self._safety_look is not None

    def subscribe(self, stream_id: str, absorb: Absorb | None = None) -> Subscription:
        """A subscription, in force while it is entered.

        Enter it before reading, so that no change falls between the read and the wait.
        """
        return Subscription(self, stream_id, absorb)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Changes, {state}, with subscriptions to {len(self.subscriptions)} streams>"

    def add(self, subscription: Subscription) -> None:
        """Put a subscription in force; `Subscription.start` calls this."""
        subscriptions = self.subscriptions.get(subscription.stream_id)
        if subscriptions is None:
            if self._safety_look is not None and not self._closed:
                self._safety_look.start()
            self.subscriptions[subscription.stream_id] = [subscription]
            if self._on_interest is not None:
                self._on_interest(subscription.stream_id, True)
        else:
            subscriptions.append(subscription)
        if self._closed:
            # A waiter that comes too late must not sleep for the whole of its timeout.
            subscription.shut()

    def remove(self, subscription: Subscription) -> None:
        subscriptions = self.subscriptions.get(subscription.stream_id)
        if subscriptions is None or subscription not in subscriptions:
            return
        subscriptions.remove(subscription)
        if not subscriptions:
            del self.subscriptions[subscription.stream_id]
            if self._safety_look is not None and not self.subscriptions:
                self._safety_look.stop()
            if self._on_interest is not None:
                self._on_interest(subscription.stream_id, False)

    @property
    def subscribed_ids(self) -> list[str]:
        """The ids of the streams that have a subscription now."""
        return list(self.subscriptions)

    def committed(self, info: StreamInfo, records: Sequence[Record] = ()) -> None:
        """This store object applied a mutation with this result, which added `records`."""
        # No copy of the list is needed: nothing that is called here subscribes or leaves.
        for subscription in self.subscriptions.get(info.id, ()):
            subscription.committed(info, records)

    def noticed(self, stream_id: str, version: int | None = None) -> None:
        """The stream may have changed, ended or begun anew, here or elsewhere.

        `version` is what the stream has reached, if the notice tells it and the stream has not
        ended: subscribers that know this version are left alone, so a store's notices
        of its own commits cost no read.
        """
        for subscription in self.subscriptions.get(stream_id, ()):
            subscription.noticed(version)

    def appended(
        self,
        stream_id: str,
        version: int,
        records: Sequence[Record],
        updated_at: datetime,
        ttl: float | None,
        expires_at: datetime | None,
    ) -> None:
        """A mutation of another process added `records` (perhaps none), reached `version`, and
        changed neither state nor error nor attributes.

        `updated_at`, `ttl` and `expires_at` are the stream's after it. Versions begin at random
        and grow by 1, so a subscriber that knows `version - 1` has seen all that came before,
        and needs no read. To any other subscriber this is a notice.
        """
        for subscription in self.subscriptions.get(stream_id, ()):
            subscription.appended(version, records, updated_at, ttl, expires_at)

    def look_at(self, stream_ids: Sequence[str]) -> None:
        """Notices about these streams may have been lost, or were not asked for yet.

        If the store makes safety looks, one is made now, for all of them together, and rings
        the subscribers of those that changed. Otherwise each subscriber asks for itself.
        """
        look = self._safety_look
        for stream_id in stream_ids:
            for subscription in self.subscriptions.get(stream_id, ()):
                # A look is about streams of which something is known.
                if look is None or subscription.info is None:
                    subscription.ring()
        if look is not None and not self._closed:
            look.look_soon(stream_ids)

    def noticed_all(self) -> None:
        """Notices about any stream may have been lost: `look_at` for all that are followed."""
        self.look_at(self.subscribed_ids)

    def close(self) -> None:
        """The store is closed: every wait, now or later, raises `StoreUnavailable`."""
        self._closed = True
        if self._safety_look is not None:
            self._safety_look.stop()
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
        """`StreamStore.wait`, made of a store's `info` and its notices.

        Costs an `info` at first, after each notice, and after each `poll_interval` seconds
        without a notice if the store makes no safety looks.
        """
        deadline = time.monotonic() + timeout
        # Subscribed before the first look, so that no change falls between look and wait.
        with self.subscribe(stream_id) as subscription:
            first = subscription.info = current = await info(stream_id)
            while current.version == version:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                await subscription.wait_to_recheck(current, poll_interval, left)
                subscription.info = current = await info(stream_id)
                # Its version differs, too, but the stream that was waited for is gone.
                if is_namesake(first, current):
                    raise StreamNotFound(stream_id)
            return current


def is_namesake(earlier: StreamInfo, later: StreamInfo) -> bool:
    """Whether `later`, which was asked for after `earlier`, is another stream that was begun
    under the same id (clause 11)."""
    return later.created_at != earlier.created_at or later.version < earlier.version


def recheck_after(info: StreamInfo, poll_interval: float) -> float:
    """Seconds until a quiet stream has to be looked at again: the poll interval, or the time
    to its expiry if that is shorter.

    The expiry is on the backend's clock. If this machine's is wrong, the poll still finds it.
    """
    if info.expires_at is None:
        return poll_interval
    # A little later than that, or the look would find the stream still there.
    to_expiry = (info.expires_at - datetime.now(timezone.utc)).total_seconds()
    return min(poll_interval, max(to_expiry, 0.0) + 0.05)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
