"""Following a stream: replay from an offset, then live, to its end.

A `Follower` is what one reader holds. The followers of a stream in one process share a
`SharedReader`: one task that reads what is new, and the records that it read last. So N
followers cost one backend read for each change, and none if this process itself appends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from streamstores import observation
from streamstores._creation import once_created
from streamstores._shared_reader import SharedReader, read_on
from streamstores.changes import is_namesake
from streamstores.errors import InvalidRequest, ProducerHandedOver, ProducerLost, StreamNotFound
from streamstores.limits import check_offset, check_seconds, check_stream_id
from streamstores.store import StreamStore
from streamstores.values import Page, Record, State, StreamInfo

__all__ = ["Follower", "follow"]

_STREAMING = State.STREAMING  # half the time of looking it up, before Python 3.12


def follow(
    store: StreamStore,
    stream_id: str,
    offset: int = 0,
    *,
    info: StreamInfo | None = None,
    producer_timeout: float | None = None,
    is_lost: Callable[[StreamInfo], bool] | None = None,
    wait_for_create: float = 0.0,
) -> Follower:
    """Follow a stream from `offset` to its end, as an async iterator of `Record`.

        async for record in follow(store, "answer", offset=120):
            ...

    A dead producer is noticed by its silence: after `producer_timeout` seconds without any
    change of a streaming stream, heartbeats included, on this process's monotonic clock, the
    follower raises `ProducerLost`. None waits for ever.

    A producer that hands its stream over can say so in the stream's attributes, and then
    there is no silence to wait out: `is_lost(info)` tells from them whether it has, and the
    follower raises `ProducerHandedOver` as soon as it has yielded what there is. It is called
    before each wait, and so after every change of state or attributes; it must be quick and
    must not raise.

    A reader can be there before its producer: if the stream does not exist at the first step,
    that step waits for it, `wait_for_create` seconds at most, before it raises
    `StreamNotFound`. A creation in this process is noticed at once; one elsewhere within half
    a second, for which the store is asked up to twice a second.

    `info` is the stream as the store has just shown it, for example by `create`. It spares the
    read at the start if the stream is followed in this process already, or if `offset` is its
    tail. What has changed since is noticed all the same.

    Nothing is read before the first step. Raises `InvalidRequest` for a bad argument.
    """
    if producer_timeout is not None:
        check_seconds(producer_timeout, "producer_timeout")
    check_seconds(wait_for_create, "wait_for_create")
    check_stream_id(stream_id, store.limits)
    offset = check_offset(offset)
    if info is not None and info.id != stream_id:
        raise InvalidRequest(f"info is of stream {info.id!r}, not of {stream_id!r}")
    return Follower(store, stream_id, offset, producer_timeout, is_lost, wait_for_create, info)


class Follower:
    """One reader's place in one stream; an async iterator of `Record`.

    The iteration ends normally exactly when the stream has left `streaming` and its last
    byte was yielded; `info` then says how it ended. It raises

    - `StreamNotFound` if the stream is deleted, expires, or is begun anew under its id;
    - `OffsetOutOfRange` if the offset it began at is beyond the tail;
    - `ProducerLost` and `ProducerHandedOver` as `follow` says;
    - the errors of the store.

    After an error, `follow(store, id, follower.offset)` goes on without loss or repetition. A
    step that was cancelled can be made again.

    Cost: a read at the start, if no `info` spares it, and for each page of replay. From then on
    the followers of a stream share their reads. A follower that is not read from costs the
    others nothing: at most two megabytes of a stream are kept, and a follower further behind
    reads for itself.
    """

    def __init__(
        self,
        store: StreamStore,
        stream_id: str,
        offset: int,
        producer_timeout: float | None,
        is_lost: Callable[[StreamInfo], bool] | None,
        wait_for_create: float = 0.0,
        seen: StreamInfo | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.offset: int = offset
        """The end of what has been yielded, and the offset of the next record."""
        self.info: StreamInfo | None = None
        """The stream as this follower last saw it; None before the first step."""
        self._store = store
        self._producer_timeout = producer_timeout
        self._is_lost = is_lost
        self._wait_for_create = wait_for_create
        self._seen = seen
        self._created_by: float | None = None  # on the monotonic clock, from the first step on
        self._reader: SharedReader | None = None
        self._next = 0  # the number of the next record in the shared reader, while live
        self._live = False
        self._finished = False
        self._waiter: asyncio.Future[bool] | None = None
        self._ready: list[Record] = []  # reversed, so that the next one is popped

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Record:
        """The next record; waits for it. A step that was cancelled can be made again."""
        # Written out instead of calling `batch`: this runs for every record.
        if not self._ready:
            batch = await self._fetch()
            if not batch:
                raise StopAsyncIteration
            if len(batch) == 1:  # as it mostly is for a live follower
                self.offset = batch[0].end
                return batch[0]
            batch.reverse()
            self._ready = batch
        record = self._ready.pop()
        self.offset = record.offset + len(record.data)
        return record

    async def batch(self) -> list[Record]:
        """Wait for a record, and return all that are there then; empty at the end.

        At most about one megabyte at a time. May be mixed with the iteration.
        """
        if self._ready:
            batch, self._ready = self._ready[::-1], []
        else:
            batch = await self._fetch()
        if batch:
            self.offset = batch[-1].end
        return batch

    async def until(self, is_met: Callable[[StreamInfo], bool]) -> StreamInfo:
        """Pass over the records, and return the info as soon as `is_met(info)` is true or the
        stream has left `streaming`.

        For a caller that has no use for the records: it is woken by changes of state and of
        attributes alone, which makes it cheap beside a busy producer. `offset` is then behind
        the records that were passed over. Raises as the iteration does, except that it does
        not look for a lost producer.
        """
        self._ready = []
        try:
            while not self._finished:
                if not self._live or self._reader is None:
                    for record in await self._replay():
                        self.offset = record.end
                    continue
                reader = self._reader
                if reader.failure is not None:
                    raise reader.failure.with_traceback(None)
                self.info = info = reader.info
                self.offset, self._next = reader.end, reader.count
                if info.state is not _STREAMING or is_met(info):
                    return info
                waiter = self._waiter = reader.enqueue_for_state()
                try:
                    await waiter
                finally:
                    reader.dequeue(waiter)
            raise InvalidRequest("the follower is closed")
        except Exception:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop following; safe at any time, also from another task, whose `batch` or iteration
        then ends.

        Needed only if the iteration is abandoned half-way and the follower is kept.
        """
        self._finished = True
        self._is_lost = None  # it may refer to this follower
        self._ready = []
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)  # nothing else would wake it: it leaves the reader
        self._leave()

    async def __aenter__(self) -> Follower:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # An `async for` that is left by `break` drops the follower without closing it.
        self._leave()

    def __repr__(self) -> str:
        state = "not read yet" if self.info is None else self.info.state
        return f"<Follower of {self.stream_id!r} at {self.offset}, {state}, in {self._store!r}>"

    async def _fetch(self) -> list[Record]:
        """The next records after `offset`; empty at the end."""
        if self._finished:
            return []
        try:
            # One coroutine, because each wake-up passes through all that are nested.
            while not self._finished:
                batch: list[Record] = []
                reader = self._reader if self._live else None
                if reader is None:
                    batch = await self._replay()
                elif self._next < reader.count:
                    batch = self._take_shared(reader)
                    if observation.observer is not None and batch:
                        observation.observer.delivered(self._store, reader.info)
                elif self._has_ended(reader):
                    break
                else:
                    waiter = self._waiter = reader.enqueue(self._producer_timeout)
                    try:
                        has_changed = await waiter
                    finally:
                        reader.dequeue(waiter)
                    if not has_changed and not self._finished:
                        await self._check_producer(reader)
                if batch:
                    return batch
        except Exception:  # not CancelledError: a cancelled step can be made again
            await self.aclose()
            raise
        await self.aclose()
        return []

    def _take_shared(self, reader: SharedReader) -> list[Record]:
        """What the reader has for this follower; empty, and no longer live, if part of it is
        no longer kept."""
        shared = reader.records_from(self._next)
        if shared is None:
            self._live = False
            return []
        self.info = reader.info
        self._next += len(shared)
        return shared

    async def _replay(self) -> list[Record]:
        """One page from the store. If it reaches what the reader shares, live begins."""
        reader = self._reader or self._join()
        if self._seen is not None and self._is_live_as_seen(reader, self._seen):
            return []
        # The reader is joined, and so subscribed, before this read: what is appended after it
        # is told to the reader.
        if self.info is None:
            page = await self._first_page()
        else:
            page = await read_on(self._store, self.stream_id, self.offset)
        if self.info is not None and is_namesake(self.info, page.info):
            raise StreamNotFound(self.stream_id)
        if reader.belongs_to_namesake_of(page.info):
            reader.fail(StreamNotFound(self.stream_id))
            self._leave()
            return []  # join a new reader and read again: only a later read can begin it
        self.info = page.info
        if not reader.offer(page.info, page.records, page.next_offset):
            reader.noticed()  # or the live followers would wait for a notice to read the rest
        # None if the reader has moved on during this read: then another page is read.
        number = reader.number_of(page.next_offset)
        if number is not None:
            self._live = True
            self._next = number
        return page.records

    def _is_live_as_seen(self, reader: SharedReader, seen: StreamInfo) -> bool:
        """Whether live begins without a read, from what the caller of `follow` has seen."""
        self._seen = None  # it helps at the start only
        if self.offset > seen.tail:
            return False
        self.info = seen  # a read has to find the same stream
        number = reader.number_as_seen(seen, self.offset)
        if number is None:
            return False
        self.info = reader.info
        self._live = True
        self._next = number
        return True

    async def _first_page(self) -> Page:
        """The page at the offset; waits for the stream if it has to be created first."""
        read = partial(self._store.read, self.stream_id, self.offset)
        if not self._wait_for_create:
            return await read()
        if self._created_by is None:
            self._created_by = time.monotonic() + self._wait_for_create
        return await once_created(self._store, self.stream_id, self._created_by, read)

    def _has_ended(self, reader: SharedReader) -> bool:
        """Whether the stream has ended normally; raises if it ended in another way."""
        if reader.failure is not None:
            # The same error is raised in every follower, and would collect their tracebacks.
            raise reader.failure.with_traceback(None)
        self.info = info = reader.info
        if info.state is not _STREAMING:
            return reader.is_whole  # else its last pages are still being read
        if self._is_lost is not None and self._is_lost(info):
            raise ProducerHandedOver(info)
        return False

    async def _check_producer(self, reader: SharedReader) -> None:
        """Raise `ProducerLost` if the silence was too long for this follower."""
        timeout = self._producer_timeout
        if timeout is None or not reader.is_silent_for(timeout):
            return
        seen = reader.info
        # Notices can be lost, so one look at the store comes before the verdict.
        info = await self._store.info(self.stream_id)
        if info.version == seen.version and info.state is _STREAMING:
            reader.report_loss(self._store)
            raise ProducerLost(info, timeout)
        reader.noticed()

    def _join(self) -> SharedReader:
        self._reader = SharedReader.join(self._store, self.stream_id)
        return self._reader

    def _leave(self) -> None:
        reader, self._reader = self._reader, None
        self._live = False
        if reader is not None:
            reader.leave(self._store)
