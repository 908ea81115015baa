"""Streams in this process's memory: the reference for the contract's semantics."""

from __future__ import annotations

import asyncio
import heapq
import weakref
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone
from functools import partial
from itertools import accumulate
from time import monotonic_ns

from streamstores import limits as bounds
from streamstores import observation
from streamstores.changes import Changes
from streamstores.errors import (
    InvalidRequest,
    OffsetOutOfRange,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.methods import CommonMethods
from streamstores.mutations import (
    changes_nothing,
    check_creation,
    check_mutation,
    grown,
    has_expired,
    mutated,
    records_at,
    records_of,
    refuse,
    with_expiry,
)
from streamstores.store import Page, Record, State, StateLike, StreamInfo
from streamstores.url_options import redacted, split_store_url

__all__ = ["MemoryStreamStore"]

_STREAMING = State.STREAMING  # half the time of looking it up, before Python 3.12


class _Stream:
    __slots__ = ("chunks", "ends", "info")

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.chunks: list[bytes] = []
        self.ends: list[int] = []  # the end of each chunk in the stream, for bisection


class _Clock:
    """The time in UTC. To make a datetime takes as long as the rest of an append, so the
    commonest append makes do with one that is at most a millisecond old."""

    __slots__ = ("_fresh_until", "_moment")

    def __init__(self) -> None:
        self._moment = self.now()

    def now(self) -> datetime:
        self._fresh_until = monotonic_ns() + 1_000_000
        self._moment = datetime.now(timezone.utc)
        return self._moment

    def recently(self) -> datetime:
        """What `now` has last said, or now: no stream is updated before it is created."""
        return self._moment if monotonic_ns() < self._fresh_until else self.now()


class MemoryStreamStore(CommonMethods):
    """Streams in plain lists of one process, for one event loop.

    It survives nothing: all streams end with the process, and `aclose` removes them. Every
    operation is a few steps on dictionaries and lists without a suspension, so each is atomic
    and none is ever `OutcomeUnknown`. A timer removes expired streams.

    The URL is `memory://`, without options; every object is a new, empty store.
    """

    capabilities: frozenset[str] = frozenset({"changes", "list"})

    def __init__(self, url: str = "memory://", *, limits: Limits | None = None) -> None:
        parts = split_store_url(url, schemes=["memory"], options={}).parts
        if parts.netloc or parts.path.strip("/"):
            raise InvalidRequest(f"memory:// takes no host and no path: {redacted(url)}")
        self.limits: Limits = limits or Limits()
        self._chunk_bytes = min(self.limits.record_bytes, self.limits.append_bytes)
        self._streams: dict[str, _Stream] = {}
        self._clock = _Clock()
        self.changes: Changes = Changes()
        # Nothing can be lost here, so this spares the followers the looks of their own.
        look = partial(_changed_streams, self._streams, self._clock)
        self.changes.look_every(self.limits.poll_interval, look)
        self._closed = False
        # (time, id): for each stream that expires at least one entry, at its expiry or before.
        self._expiries: list[tuple[datetime, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def from_url(cls, url: str) -> MemoryStreamStore:
        """A new, empty store, as the constructor makes it."""
        return cls(url)

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """As `StreamStore.create`."""
        # No `await` from here on: what is found here is still so when it is changed.
        creation = check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )
        self._check_open()
        existing = self._find(stream_id)
        if existing is not None:
            raise StreamExists(f"stream {stream_id!r} exists", existing.info)
        info = creation.begun(self._clock.now())
        stream = self._streams[stream_id] = _Stream(info)
        _extend(stream, creation.chunks, 0)
        self._remember_expiry(info)
        self.changes.noticed(stream_id)
        return info

    async def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """As `StreamStore.append`; about a microsecond for a single chunk."""
        is_plain = state is None and attributes is None and error is None and at is None
        if is_plain and len(chunks) == 1:
            info = self._append_one(stream_id, chunks, version)
            if info is not None:
                return info
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        stream = self._get(stream_id)
        if changes_nothing(stream.info, mutation):
            return stream.info
        refuse(stream.info, mutation)
        before = stream.info
        info = stream.info = mutated(before, mutation, self._clock.now())
        _extend(stream, mutation.chunks, before.tail)
        self.changes.committed(info, records_of(mutation.chunks, info.tail))
        return info

    def _append_one(
        self, stream_id: str, chunks: tuple[bytes, ...], version: int | None
    ) -> StreamInfo | None:
        """The commonest append, of one chunk to a streaming stream, in a sixth of the time.

        It accepts only what no rule could refuse, and grows the stream by the same `grown`
        as `mutated`. For anything else it returns None and has done nothing.
        """
        (chunk,) = chunks
        stream = self._streams.get(stream_id) if type(stream_id) is str else None
        if stream is None or type(chunk) is not bytes:
            return None
        before = stream.info
        if before.state is not _STREAMING or not 0 < len(chunk) <= self._chunk_bytes:
            return None
        if version is not None and (type(version) is not int or version != before.version):
            return None
        now = self._clock.recently()
        if before.expires_at is not None and before.expires_at <= now:
            return None
        info = stream.info = grown(before, len(chunk), now)
        stream.chunks.append(chunk)
        stream.ends.append(info.tail)
        # Without a subscription the records need not be made.
        if stream_id in self.changes.subscriptions:
            self.changes.committed(info, records_of(chunks, info.tail))
        return info

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        stream = self._get(stream_id)
        info = stream.info
        # No wait and no lock: the infos and lists of one stream change together.
        if offset >= info.tail:
            if offset > info.tail:
                raise OffsetOutOfRange(stream_id, offset, tail=info.tail)
            return Page([], offset, info)
        records = _records_between(stream, offset, offset + max_bytes)
        return Page(records, records[-1].end, info)

    async def info(self, stream_id: str) -> StreamInfo:
        return self._get(stream_id).info

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        ttl = bounds.check_expiry(ttl, expires_at)
        stream = self._get(stream_id)
        now = self._clock.now()
        info = stream.info = with_expiry(stream.info, ttl, bounds.in_utc(expires_at), now)
        if has_expired(info, now):
            self._end(stream_id)
        else:
            self._remember_expiry(info)
        return info

    async def delete(self, stream_id: str) -> None:
        self._get(stream_id)
        self._end(stream_id)

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        bounds.check_prefix(prefix)
        self._check_open()
        # A list of the ids, because streams may come and go between two steps of the caller.
        # A copy of the ids, and a look at each: the caller may create and delete streams
        # between two.
        for stream_id in [each for each in self._streams if each.startswith(prefix)]:
            stream = self._find(stream_id)
            if stream is not None:
                yield stream.info

    async def sweep(self, *, limit: int = 1000) -> int:
        bounds.check_sweep_limit(limit)
        self._check_open()
        return self._sweep(limit)

    async def aclose(self) -> None:
        # Waiters are told first: they get StoreUnavailable, not StreamNotFound.
        self._closed = True
        self.changes.close()
        self._streams.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def __aenter__(self) -> MemoryStreamStore:
        self._check_open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<MemoryStreamStore of {len(self._streams)} streams at {id(self):#x}>"

    def _get(self, stream_id: str) -> _Stream:
        """The stream. The id is checked only if it is not found: no wrong id ever is."""
        stream = self._find(stream_id)
        if stream is None:
            bounds.check_stream_id(stream_id, self.limits)
            self._check_open()
            raise StreamNotFound(stream_id)
        return stream

    def _find(self, stream_id: str) -> _Stream | None:
        """The stream; None if there is none, or no longer."""
        stream = self._streams.get(stream_id) if isinstance(stream_id, str) else None
        if stream is None or stream.info.expires_at is None:
            return stream  # without a look at the clock, which takes as long as the rest
        if not has_expired(stream.info, self._clock.now()):
            return stream
        self._end(stream_id)
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("the store is closed")

    def _end(self, stream_id: str) -> None:
        del self._streams[stream_id]
        self.changes.noticed(stream_id)

    def _remember_expiry(self, info: StreamInfo) -> None:
        """Note when to look whether the stream has expired.

        A sliding expiry is noted once, and looked up again when its entry comes due, so an
        append never touches the heap.
        """
        if info.expires_at is None:
            return
        heapq.heappush(self._expiries, (info.expires_at, info.id))
        if self._expiries[0] == (info.expires_at, info.id):
            self._arm_timer()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expiries:
            # A day at most, because timers of many years overflow in some event loops.
            delay = min(
                max((self._expiries[0][0] - self._clock.now()).total_seconds(), 0.0), 86_400
            )
            loop = asyncio.get_running_loop()
            ref: weakref.ref[MemoryStreamStore] = weakref.ref(self)
            self._timer = loop.call_later(delay, self._sweep_by_timer, ref)

    def _sweep(self, limit: int) -> int:
        """Remove at most `limit` expired streams, and set the timer for the next."""
        now = self._clock.now()
        swept = 0
        while self._expiries and self._expiries[0][0] <= now and swept < limit:
            stream_id = heapq.heappop(self._expiries)[1]
            stream = self._streams.get(stream_id)
            if stream is None or stream.info.expires_at is None:
                continue
            if has_expired(stream.info, now):
                self._end(stream_id)
                swept += 1
            else:
                # Mutations have moved its expiry since.
                heapq.heappush(self._expiries, (stream.info.expires_at, stream_id))
        self._arm_timer()
        if observation.observer is not None:
            observation.observer.swept("memory", swept)
        return swept

    @staticmethod
    def _sweep_by_timer(ref: weakref.ref[MemoryStreamStore]) -> None:
        """A weak reference, because the timer must not keep the store, perhaps for years."""
        store = ref()
        if store is not None:
            store._sweep(limit=1000)


async def _changed_streams(
    streams: Mapping[str, _Stream], clock: _Clock, known: Mapping[str, int]
) -> dict[str, int | None]:
    """The streams whose version is not the known one; None for a stream that is gone."""
    now = clock.now()
    changed: dict[str, int | None] = {}
    for stream_id, version in known.items():
        stream = streams.get(stream_id)
        if stream is None or has_expired(stream.info, now):
            changed[stream_id] = None
        elif stream.info.version != version:
            changed[stream_id] = stream.info.version
    return changed


def _extend(stream: _Stream, chunks: tuple[bytes, ...], start: int) -> None:
    stream.chunks += chunks
    stream.ends += list(accumulate(map(len, chunks), initial=start))[1:]


def _records_between(stream: _Stream, offset: int, end: int) -> list[Record]:
    """The records from `offset`, which is below the tail, to `end`, but never none."""
    first = bisect_right(stream.ends, offset)
    last = max(bisect_right(stream.ends, end), first + 1)
    chunks = stream.chunks[first:last]
    start = stream.ends[first - 1] if first else 0
    if start < offset:
        chunks[0] = chunks[0][offset - start :]
    return records_at([offset, *stream.ends[first : last - 1]], chunks)
