"""The live end of a stream, which its followers in one process share.

`docs/decisions/shared-followers.md` says why the sharing is here and not in the stores.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from streamstores import observation
from streamstores._first_ring import FirstRing
from streamstores._shared_readers import live_readers, readers_of
from streamstores.changes import (
    LONGEST_SLEEP,
    Bell,
    Subscription,
    changes_of,
    is_namesake,
    recheck_after,
)
from streamstores.errors import OffsetOutOfRange, StreamNotFound
from streamstores.store import StreamStore
from streamstores.values import Page, Record, StreamInfo

RECENT_BYTES = 1_048_576
"""How many of a stream's last bytes its followers share. A follower further behind reads for
itself."""

RECENT_RECORDS = 16_384


class SharedReader:
    """The live end of one stream, shared by its followers in this process.

    It keeps the records of `[_start, _end)`, which are numbered as they come; `_first` is the
    number of the oldest record kept. One task reads what this process did not append itself.
    """

    __slots__ = (
        "__weakref__",
        "_alarms",
        "_bell",
        "_changed_at",
        "_changes",
        "_end",
        "_expiry",
        "_first",
        "_info",
        "_loop",
        "_lost_at",
        "_readers",
        "_reading",
        "_records",
        "_start",
        "_state_waiters",
        "_stores",
        "_stream_id",
        "_waiters",
        "count",
        "failure",
    )

    def __init__(self, store: StreamStore, stream_id: str, readers: dict[str, Any]) -> None:
        self.failure: Exception | None = None
        self.count = 0
        """The number that the next record will have."""
        self._stream_id = stream_id
        self._loop = asyncio.get_running_loop()
        # By identity: each follower's store, and how many followers have it. There are several
        # if a wrapper is made for each request.
        self._stores: dict[int, tuple[StreamStore, int]] = {}
        self._readers = readers
        self._info: StreamInfo | None = None
        self._lost_at: int | None = None  # the version of the last loss that was reported
        self._changed_at = 0.0
        self._start = self._end = 0
        self._records: list[Record] = []
        self._first = 0
        self._waiters: set[asyncio.Future[bool]] = set()
        self._state_waiters: set[asyncio.Future[bool]] = set()
        self._alarms: dict[float, asyncio.TimerHandle] = {}
        self._reading: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        live_readers.add(weakref.ref(self, live_readers.discard))
        self._changes = changes_of(store)
        self._bell: Bell = Bell()
        if self._changes is not None:
            bell = FirstRing(self._changes, stream_id, self._absorb, self._keep_up)
            self._bell = bell.start()

    @classmethod
    def join(cls, store: StreamStore, stream_id: str) -> SharedReader:
        """The reader of this stream, on behalf of one more follower, which has to `leave`."""
        readers = readers_of(store)
        reader: SharedReader | None = readers.get(stream_id)
        # A loop that was closed with followers in it leaves its readers behind.
        if reader is None or reader._loop.is_closed():
            reader = readers[stream_id] = cls(store, stream_id, readers)
        _, count = reader._stores.get(id(store), (store, 0))
        reader._stores[id(store)] = store, count + 1
        return reader

    def leave(self, store: StreamStore) -> None:
        """End one follower's part. When the last follower has left, so has the reader."""
        _, count = self._stores.pop(id(store))
        if count > 1:
            self._stores[id(store)] = store, count - 1
        if not self._stores:
            self._retire()

    def fail(self, exc: Exception) -> None:
        """End the reader: its followers get `exc` after the records that are there."""
        self.failure = exc
        self._retire()
        self._wake()

    def _retire(self) -> None:
        """Hear and read nothing more, and make room for another reader. Idempotent."""
        # Another reader may have taken the place, if this one failed or its loop was closed.
        if self._readers.get(self._stream_id) is self:
            del self._readers[self._stream_id]
        if isinstance(self._bell, Subscription):
            self._bell.stop()
            self._bell = Bell()  # without the way back to this reader
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._reading is not None and not self._loop.is_closed():
            self._reading.cancel()

    def __repr__(self) -> str:
        return f"<SharedReader of {self._stream_id!r} at {self._end}>"

    @property
    def info(self) -> StreamInfo:
        assert self._info is not None, "there is an info as soon as a follower is live"
        return self._info

    def followers(self) -> list[tuple[StreamStore, int]]:
        """How many followers share this reader, by their stores. Safe in any thread."""
        return list(self._stores.values())

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self._end

    @property
    def is_whole(self) -> bool:
        """Whether the records reach the end of the stream."""
        return self._end == self.info.tail

    def belongs_to_namesake_of(self, info: StreamInfo) -> bool:
        """Whether a fresh read shows that the stream of this reader is gone and its id in use
        again. The version says nothing here: the reader may be ahead of that read."""
        return self._info is not None and self._info.created_at != info.created_at

    def number_of(self, offset: int) -> int | None:
        """The number of the record that begins at `offset`; None if that is not shared."""
        if self._info is None or not self._start <= offset <= self._end:
            return None
        return self._first + bisect_left(self._records, offset, key=_offset_of)

    def number_as_seen(self, info: StreamInfo, offset: int) -> int | None:
        """The number of the record that begins at `offset` if a follower that has seen `info`
        can be live at once; None if it has to read first.

        Live may begin with that info, if no record is missing and the store can look whether
        the stream has changed before this reader listened.
        """
        if self._info is None:
            changes = self._changes
            if offset != info.tail or changes is None or not changes.makes_safety_looks:
                return None
            self._begin(info)
            changes.look_at([self._stream_id])
        elif self._info.version < info.version or self.belongs_to_namesake_of(info):
            return None
        number = self.number_of(offset)
        if number is None:
            return None
        index = number - self._first
        start = self._records[index].offset if number < self.count else self._end
        return number if start == offset else None  # the rest of a record has to be read

    def records_from(self, number: int) -> list[Record] | None:
        """The records with this number and above; None if they are no longer kept."""
        if number < self._first:
            return None
        return self._records[number - self._first :]

    def offer(self, info: StreamInfo, records: Sequence[Record], next_offset: int) -> bool:
        """Take what a read or a commit showed; False if something is still to be read.

        `records` end at `next_offset`, and `info` was true when they were read.
        """
        if self._info is None:
            # Live begins with the first read that reaches the end, whichever follower made it.
            if next_offset == info.tail:
                self._begin(info)
            return True
        # Reads and commits can arrive in another order than they happened.
        if info.version <= self._info.version and next_offset <= self._end:
            return True
        start = records[0].offset if records else next_offset
        if start <= self._end <= next_offset:
            self._extend(records, next_offset)
        elif next_offset == info.tail and next_offset > self._end:
            self._skip_to(next_offset)
        else:
            return False
        # A read that was overtaken by a commit brings records, and an older info.
        newest = info if info.version >= self._info.version else self._info
        self._update(self._info, newest, has_records=bool(records))
        return self._end == newest.tail

    def _begin(self, info: StreamInfo) -> None:
        self._know(info)
        self._start = self._end = info.tail
        bell = self._bell
        looks = self._changes is not None and self._changes.makes_safety_looks
        if looks and isinstance(bell, FirstRing) and not bell.has_rung:
            self._keep_up_from_expiry(info)
        else:
            self._keep_up()

    def _keep_up_from_expiry(self, info: StreamInfo) -> None:
        """Let the task that reads begin with the first ring, or when the stream expires: most
        streams are written in this process alone, and a task for each would do nothing."""
        seconds = recheck_after(info, math.inf)
        if seconds != math.inf:
            self._expiry = self._loop.call_later(min(seconds, LONGEST_SLEEP), self._keep_up)

    def _keep_up(self) -> None:
        """Begin the task that reads, if live has begun and the task has not."""
        if self._info is not None and self._reading is None and not self._loop.is_closed():
            name = f"streamstores: follow {self._stream_id}"
            self._reading = self._loop.create_task(self._keep_reading(), name=name)

    def _extend(self, records: Sequence[Record], next_offset: int) -> None:
        if records and records[0].offset < self._end:
            records = [record for record in records if record.offset >= self._end]
        self._records += records
        self.count += len(records)
        self._end = next_offset
        kept = self._end - self._start
        # At twice the amount, so that trimming costs little for each record.
        if kept > 2 * RECENT_BYTES or len(self._records) > 2 * RECENT_RECORDS:
            self._trim()

    def _trim(self) -> None:
        oldest = bisect_left(self._records, self._end - RECENT_BYTES, key=_offset_of)
        # Records of a few bytes take far more memory than their bytes.
        oldest = max(oldest, len(self._records) - RECENT_RECORDS)
        del self._records[:oldest]
        self._first += oldest
        self._start = self._records[0].offset if self._records else self._end

    def _skip_to(self, offset: int) -> None:
        """Keep nothing: one follower's own read was ahead, and the others read for themselves.

        The number that is left out makes `records_from` answer None to them.
        """
        self._first = self.count = self.count + 1
        self._records = []
        self._start = self._end = offset

    def _update(self, before: StreamInfo, info: StreamInfo, *, has_records: bool) -> None:
        self._know(info)
        is_same = info.attributes is before.attributes or info.attributes == before.attributes
        if info.state is not before.state or not is_same:
            self._wake()
        elif has_records:
            self._waiters = _set_all(self._waiters, True)

    def _know(self, info: StreamInfo) -> None:
        self._info = info
        self._changed_at = self._loop.time()
        if isinstance(self._bell, Subscription):
            self._bell.info = info

    def _wake(self) -> None:
        self._waiters = _set_all(self._waiters, True)
        self._state_waiters = _set_all(self._state_waiters, True)

    def _absorb(self, info: StreamInfo, records: Sequence[Record]) -> bool:
        """Take a mutation that is known in full; True if it follows on what is here, so that
        no read is needed."""
        # Not an end by itself: the read that follows raises StreamNotFound for the namesake.
        if self._info is None or is_namesake(self._info, info):
            return False
        end = records[-1].end if records else info.tail
        start = records[0].offset if records else end
        return start == self._end and self.offer(info, records, end)

    def noticed(self) -> None:
        """A follower saw a change that the reader does not have yet."""
        self._changed_at = self._loop.time()
        self._bell.ring()

    def enqueue(self, producer_timeout: float | None) -> asyncio.Future[bool]:
        """A future that becomes True with the next record, change of state or failure, and
        False after `producer_timeout` seconds without any change.

        It may become False for another waiter's shorter timeout: one timer serves all that have
        the same. The caller awaits it and dequeues it.
        """
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.add(waiter)
        if producer_timeout not in self._alarms and producer_timeout not in (None, math.inf):
            self._arm(producer_timeout)
        return waiter

    def enqueue_for_state(self) -> asyncio.Future[bool]:
        """A future that becomes True with the next change of state or attributes, or failure,
        but not with a record. The caller awaits it and dequeues it."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._state_waiters.add(waiter)
        return waiter

    def dequeue(self, waiter: asyncio.Future[bool]) -> None:
        self._waiters.discard(waiter)
        self._state_waiters.discard(waiter)

    def _arm(self, producer_timeout: float) -> None:
        due = self._changed_at + producer_timeout
        self._alarms[producer_timeout] = self._loop.call_at(due, self._alarm, producer_timeout)

    def _alarm(self, producer_timeout: float) -> None:
        del self._alarms[producer_timeout]
        if self._waiters and not self.is_silent_for(producer_timeout):
            self._arm(producer_timeout)  # there was a change meanwhile
        else:
            self._waiters = _set_all(self._waiters, False)

    def is_silent_for(self, seconds: float) -> bool:
        """Whether there was no change for so long, on the loop's clock."""
        return self._loop.time() >= self._changed_at + seconds

    def report_loss(self, store: StreamStore) -> None:
        """Tell the observer of a lost producer, once for all followers that wait for it."""
        version = self.info.version
        if observation.observer is not None and self._lost_at != version:
            observation.observer.producer_lost(store)
        self._lost_at = version

    async def _keep_reading(self) -> None:
        """Read what this process did not append itself, to the end of the stream."""
        try:
            while not (self.info.state.is_final and self.is_whole):
                was_told = not self.is_whole or await self._wait_for_change()
                before = self.info  # a commit may be absorbed while the read is under way
                page = await self._read()
                if observation.observer is not None and not was_told:
                    has_found = page.info.version != before.version
                    observation.observer.polled(has_found=has_found)
                if is_namesake(before, page.info):
                    raise StreamNotFound(self._stream_id)
                self.offer(page.info, page.records, page.next_offset)
        except asyncio.CancelledError:
            return  # raised, it would keep this reader alive until the next garbage collection
        except Exception as exc:
            self.fail(exc)

    async def _read(self) -> Page:
        """The next page, through the store of a follower that is still there."""
        while True:
            store = self._store
            try:
                return await read_on(store, self._stream_id, self._end)
            except Exception:
                if id(store) in self._stores or not self._stores:
                    raise
                # Its followers left meanwhile, and may have closed it.

    @property
    def _store(self) -> StreamStore:
        # Any would do; the first has been there for longest and is likely to stay.
        store, _ = next(iter(self._stores.values()))
        return store

    async def _wait_for_change(self) -> bool:
        """Wait until the stream may have changed; False if nothing said so in time."""
        poll_interval = self._store.limits.poll_interval
        if isinstance(self._bell, Subscription):
            return await self._bell.wait_to_recheck(self.info, poll_interval)
        return await self._wait_by_store(recheck_after(self.info, poll_interval))

    async def _wait_by_store(self, timeout: float) -> bool:
        """Wait for a change with the store's own `wait`, because it shares no `Changes`.

        Bounded here as well as there, and ended by `noticed`.
        """
        version = self.info.version
        waiting = self._loop.create_task(
            self._store.wait(self._stream_id, version=version, timeout=timeout)
        )
        waiting.add_done_callback(self._waited)
        try:
            # Not the task itself: `noticed` has to end this wait as well, and a store whose
            # `wait` never returns must not stop the reader.
            was_told = await self._bell.wait(timeout)
        finally:
            is_over = waiting.done()
            waiting.cancel()
        if is_over:
            # With the version that it began with, it has only come to the end of its time.
            return waiting.result().version != version
        return was_told

    def _waited(self, waiting: asyncio.Task[StreamInfo]) -> None:
        if not waiting.cancelled():
            waiting.exception()  # retrieved, even if nothing waits for it any more
            self._bell.ring()


async def read_on(store: StreamStore, stream_id: str, offset: int) -> Page:
    """Read from an offset that the stream has reached: it can be beyond the tail only of a
    shorter namesake."""
    try:
        return await store.read(stream_id, offset)
    except OffsetOutOfRange as exc:
        raise StreamNotFound(stream_id) from exc


def shared_reader_of(store: StreamStore, stream_id: str) -> SharedReader | None:
    """The reader that the stream's followers share now; None if none of them is there."""
    return readers_of(store).get(stream_id)


def _set_all(waiters: set[asyncio.Future[bool]], result: bool) -> set[asyncio.Future[bool]]:
    """Wake all waiters; returns the set for those that come next."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(result)
    return set()


def _offset_of(record: Record) -> int:
    return record.offset
