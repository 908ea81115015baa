"""The live end of a stream, which its followers in one process share.

See `docs/decisions/shared-followers.md` for why it is here and not in the stores.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from streamstores.changes import Changes, Subscription, is_namesake, recheck_after
from streamstores.errors import OffsetOutOfRange, StreamNotFound
from streamstores.store import Page, Record, StreamInfo, StreamStore

RECENT_BYTES = 1_048_576
"""How much of a stream's end its followers share; one further behind reads for itself."""

RECENT_RECORDS = 16_384


class SharedReader:
    """The live end of one stream, shared by its followers in this process.

    It keeps the records of `[_start, _end)`. They are numbered as they come; `_first` is the
    number of the oldest one kept.
    """

    __slots__ = (
        *("_alarms", "_changed_at", "_end", "_first", "_followers", "_info", "_loop", "_pump"),
        *("_records", "_start", "_store", "_stream_id", "_waiters", "_subscription"),
        *("count", "failure"),
    )

    # By id(store): the tail keeps the store alive, so an id here is never another's.
    _readers: ClassVar[dict[tuple[int, str], SharedReader]] = {}

    def __init__(self, store: StreamStore, stream_id: str) -> None:
        self.failure: Exception | None = None
        self._store = store
        self._stream_id = stream_id
        self._loop = asyncio.get_running_loop()
        self._followers = 0
        self._info: StreamInfo | None = None
        self._changed_at = 0.0
        self._start = self._end = 0
        self._records: list[Record] = []
        self._first = 0
        self.count = 0
        """The number that the next record will have."""
        self._waiters: set[asyncio.Future[bool]] = set()
        self._alarms: dict[float, asyncio.TimerHandle] = {}
        self._pump: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        changes = getattr(store, "changes", None)
        if isinstance(changes, Changes):
            self._subscription = changes.subscribe(stream_id, self._absorb).start()

    @classmethod
    def join(cls, store: StreamStore, stream_id: str) -> SharedReader:
        key = (id(store), stream_id)
        tail = cls._readers.get(key)
        if tail is None or tail._loop.is_closed():
            tail = cls._readers[key] = cls(store, stream_id)
        tail._followers += 1
        return tail

    def leave(self) -> None:
        self._followers -= 1
        if self._followers == 0:
            self._retire()

    def fail(self, exc: Exception) -> None:
        """Nothing more will come: followers get `exc` after the records they have."""
        self.failure = exc
        self._retire()
        self._wake()

    def _retire(self) -> None:
        key = (id(self._store), self._stream_id)
        if self._readers.get(key) is self:
            del self._readers[key]
        if self._subscription is not None:
            self._subscription.stop()
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
        if self._pump is not None and not self._loop.is_closed():
            self._pump.cancel()

    @property
    def info(self) -> StreamInfo:
        assert self._info is not None, "a tail has an info once a follower is live"
        return self._info

    @property
    def is_whole(self) -> bool:
        """Whether all is here that the stream has."""
        return self._end == self.info.tail

    def belongs_to_namesake_of(self, info: StreamInfo) -> bool:
        """Whether a fresh read shows that this tail's stream is gone and its id reused."""
        return self._info is not None and self._info.created_at != info.created_at

    def number_of(self, offset: int) -> int | None:
        """The number of the record that begins at `offset`; None if that is not shared."""
        if self._info is None or not self._start <= offset <= self._end:
            return None
        return self._first + bisect_left(self._records, offset, key=_offset_of)

    def records_from(self, number: int) -> list[Record] | None:
        """The records with this number and above; None if they are no longer kept."""
        if number < self._first:
            return None
        return self._records[number - self._first :]

    def offer(self, info: StreamInfo, records: Sequence[Record], next_offset: int) -> bool:
        """Take what a read or a commit showed; False where it leaves something to read.

        `records` end at `next_offset`, and `info` was true when they were read.
        """
        if self._info is None:
            if next_offset == info.tail:
                self._begin(info)
            return True
        if info.version <= self._info.version and next_offset <= self._end:
            return True
        start = records[0].offset if records else next_offset
        if start <= self._end <= next_offset:
            self._extend(records, next_offset)
        elif next_offset == info.tail and next_offset > self._end:
            self._skip_to(next_offset)
        else:
            return False
        self._update(max(info, self._info, key=_version_of), woken=bool(records))
        return self._end == self._info.tail

    def _begin(self, info: StreamInfo) -> None:
        self._know(info)
        self._start = self._end = info.tail
        name = f"streamstores: follow {self._stream_id}"
        self._pump = self._loop.create_task(self._run(), name=name)

    def _extend(self, records: Sequence[Record], next_offset: int) -> None:
        if records and records[0].offset < self._end:
            records = [record for record in records if record.offset >= self._end]
        self._records += records
        self.count += len(records)
        self._end = next_offset
        kept = self._end - self._start
        if kept > 2 * RECENT_BYTES or len(self._records) > 2 * RECENT_RECORDS:
            self._trim()

    def _trim(self) -> None:
        oldest = bisect_left(self._records, self._end - RECENT_BYTES, key=_offset_of)
        oldest = max(oldest, len(self._records) - RECENT_RECORDS)
        del self._records[:oldest]
        self._first += oldest
        self._start = self._records[0].offset if self._records else self._end

    def _skip_to(self, offset: int) -> None:
        """Keep nothing: a follower's own read was ahead, and the others read for themselves."""
        self._first = self.count = self.count + 1
        self._records = []
        self._start = self._end = offset

    def _update(self, info: StreamInfo, *, woken: bool) -> None:
        before = self.info
        self._know(info)
        if woken or info.state is not before.state or info.attributes != before.attributes:
            self._wake()

    def _know(self, info: StreamInfo) -> None:
        self._info = info
        self._changed_at = self._loop.time()
        if self._subscription is not None:
            self._subscription.info = info

    def _wake(self, has_changed: bool = True) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(has_changed)

    def _absorb(self, info: StreamInfo, records: Sequence[Record]) -> bool:
        """Hear of a commit of this process, or of one elsewhere whose notice tells all: no
        read is needed if nothing lies between."""
        if self._info is None or is_namesake(self._info, info):
            return False
        end = records[-1].end if records else info.tail
        start = records[0].offset if records else end
        return start == self._end and self.offer(info, records, end)

    def noticed(self) -> None:
        """Somebody saw a change that the pump has not brought yet."""
        self._changed_at = self._loop.time()
        if self._subscription is not None:
            self._subscription.ring()

    def enqueue(self, producer_timeout: float | None) -> asyncio.Future[bool]:
        """A future of the next record, change of state or failure: True. False where there
        was no change of any kind for `producer_timeout` seconds, of this waiter or another:
        one timer serves all. Whoever awaits it dequeues it."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.add(waiter)
        if producer_timeout not in self._alarms and producer_timeout not in (None, math.inf):
            self._arm(producer_timeout)
        return waiter

    def dequeue(self, waiter: asyncio.Future[bool]) -> None:
        self._waiters.discard(waiter)

    def _arm(self, producer_timeout: float) -> None:
        due = self._changed_at + producer_timeout
        self._alarms[producer_timeout] = self._loop.call_at(due, self._alarm, producer_timeout)

    def _alarm(self, producer_timeout: float) -> None:
        del self._alarms[producer_timeout]
        if self._waiters and not self.is_silent_for(producer_timeout):
            self._arm(producer_timeout)  # something came meanwhile
        else:
            self._wake(False)

    def is_silent_for(self, seconds: float) -> bool:
        """Whether nothing was heard of the stream for so long, on the loop's clock."""
        return self._loop.time() >= self._changed_at + seconds

    async def _run(self) -> None:
        """The pump: the one reader of what this process did not append itself."""
        try:
            while not self.info.state.is_final or self._end < self.info.tail:
                if self._end == self.info.tail:
                    await self._next_notice()
                before = self.info  # a commit may be absorbed while the read is under way
                page = await read_on(self._store, self._stream_id, self._end)
                if is_namesake(before, page.info):
                    raise StreamNotFound(self._stream_id)
                self.offer(page.info, page.records, page.next_offset)
        except Exception as exc:
            self.fail(exc)

    async def _next_notice(self) -> None:
        if self._subscription is not None:
            poll_interval = self._store.limits.poll_interval
            await self._subscription.wait(recheck_after(self.info, poll_interval))
        else:
            await self._store.wait(self._stream_id, version=self.info.version, timeout=30.0)


async def read_on(store: StreamStore, stream_id: str, offset: int) -> Page:
    """Read from an offset that the stream has reached: it can be beyond the tail only of a
    shorter namesake."""
    try:
        return await store.read(stream_id, offset)
    except OffsetOutOfRange as exc:
        raise StreamNotFound(stream_id) from exc


def _offset_of(record: Record) -> int:
    return record.offset


def _version_of(info: StreamInfo) -> int:
    return info.version
