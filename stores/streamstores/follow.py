"""Following a stream: replay from an offset, then live, to its end.

`Follower` is what a reader holds. The followers of one stream in one process share a
`SharedReader`: one task that reads what is new, and the records it read last. So N
followers cost one backend read a change, and none where this process itself appends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from streamstores._shared_reader import SharedReader, read_on
from streamstores.changes import is_namesake
from streamstores.errors import ProducerHandedOver, ProducerLost, StreamNotFound
from streamstores.limits import check_offset, check_seconds
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["Follower", "follow"]

_STREAMING = State.STREAMING  # half the time of looking it up, before Python 3.12


def follow(
    store: StreamStore,
    stream_id: str,
    offset: int = 0,
    *,
    producer_timeout: float | None = None,
    is_lost: Callable[[StreamInfo], bool] | None = None,
) -> Follower:
    """Follow a stream from `offset` to its end, as an async iterator of `Record`.

    Where the store sees no change (not even a heartbeat) for `producer_timeout` seconds on
    this process's monotonic clock while the stream is streaming, `ProducerLost` is raised;
    None waits for ever. `is_lost(info)` can say so at once, of a producer that left word in
    the attributes, say: it is asked before each wait, and so after each change of them.

        async for record in follow(store, "answer", offset=120):
            ...

    Nothing is read before the first step. Raises `InvalidRequest` for a bad argument.
    """
    if producer_timeout is not None:
        check_seconds(producer_timeout, "producer_timeout")
    return Follower(store, stream_id, check_offset(offset), producer_timeout, is_lost)


class Follower:
    """One reader's place in one stream; an async iterator of `Record`.

    The iteration ends normally exactly when the stream has left `streaming` and its last
    byte was yielded; `info` then says how it ended. It raises `StreamNotFound` when the
    stream is deleted, expires, or is begun anew under its id; `OffsetOutOfRange` when it
    was begun beyond the tail; `ProducerLost` as `follow` says; and the store's errors. After
    an error a new `follow(store, id, follower.offset)` goes on without loss or repetition.

    Cost: one read at the start and one for each page of replay; then the followers of a
    stream share their reads. A follower that is not read from costs nobody anything: at
    most two megabytes are kept a stream, and from further behind it reads for itself.
    """

    def __init__(
        self,
        store: StreamStore,
        stream_id: str,
        offset: int,
        producer_timeout: float | None,
        is_lost: Callable[[StreamInfo], bool] | None,
    ) -> None:
        self.stream_id = stream_id
        self.offset = offset
        """Where the next record begins: what has been yielded ends here."""
        self.info: StreamInfo | None = None
        """The stream as this follower last saw it; None before the first step."""
        self._store = store
        self._producer_timeout = producer_timeout
        self._is_lost = is_lost
        self._tail: SharedReader | None = None
        self._next = 0  # number of the next record in the tail, valid while live
        self._live = False
        self._finished = False
        self._ready: list[Record] = []  # reversed: the next one is last

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Record:
        if not self._ready:
            batch = await self._fetch()
            if not batch:
                raise StopAsyncIteration
            if len(batch) == 1:  # as a live follower mostly has it
                self.offset = batch[0].end
                return batch[0]
            batch.reverse()
            self._ready = batch
        record = self._ready.pop()
        self.offset = record.offset + len(record.data)
        return record

    async def batch(self) -> list[Record]:
        """All records that are there now, waiting for the first; empty at the end.

        At most about one megabyte at a time. Mixes freely with the iteration.
        """
        if self._ready:
            batch, self._ready = self._ready[::-1], []
        else:
            batch = await self._fetch()
        if batch:
            self.offset = batch[-1].end
        return batch

    async def aclose(self) -> None:
        """Stop following. Needed only where the iteration is abandoned half-way and the
        follower is still referenced; safe at any time."""
        self._finished = True
        self._ready = []
        self._leave()

    async def __aenter__(self) -> Follower:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._leave()

    async def _fetch(self) -> list[Record]:
        """The next records after `offset`; empty at the end."""
        if self._finished:
            return []
        try:
            # One coroutine, because each wake-up goes through all that are nested.
            while True:
                batch: list[Record] = []
                tail = self._tail if self._live else None
                if tail is None:
                    batch = await self._replay()
                elif self._next < tail.count:
                    batch = self._take_shared(tail)
                elif self._has_ended(tail):
                    break
                else:
                    waiter = tail.enqueue(self._producer_timeout)
                    try:
                        has_changed = await waiter
                    finally:
                        tail.dequeue(waiter)
                    if not has_changed:
                        await self._check_producer(tail)
                if batch:
                    return batch
        except Exception:  # a cancelled step can be made again
            await self.aclose()
            raise
        await self.aclose()
        return []

    def _take_shared(self, tail: SharedReader) -> list[Record]:
        """What the tail has for this follower, which may be no longer all."""
        shared = tail.records_from(self._next)
        if shared is None:
            self._live = False  # too far behind what is shared
            return []
        self.info = tail.info
        self._next += len(shared)
        return shared

    async def _replay(self) -> list[Record]:
        """One page from the store. Where it reaches what the tail shares, live begins."""
        tail = self._tail or self._join()
        read = self._store.read if self.info is None else partial(read_on, self._store)
        page = await read(self.stream_id, self.offset)
        if self.info is not None and is_namesake(self.info, page.info):
            raise StreamNotFound(self.stream_id)
        if tail.belongs_to_namesake_of(page.info):
            tail.fail(StreamNotFound(self.stream_id))
            self._leave()
            return []  # joins afresh, and reads once more: only a later read can start a tail
        self.info = page.info
        if not tail.offer(page.info, page.records, page.next_offset):
            tail.noticed()  # else who is live would wait for a notice to read the rest
        number = tail.number_of(page.next_offset)
        if number is not None:
            self._live = True
            self._next = number
        return page.records

    def _has_ended(self, tail: SharedReader) -> bool:
        """Whether no record will follow; raises where that is not as it should be."""
        if tail.failure is not None:
            raise tail.failure.with_traceback(None)
        self.info = info = tail.info
        if info.state is not _STREAMING:
            return tail.is_whole  # else its last pages are still being read
        if self._is_lost is not None and self._is_lost(info):
            raise ProducerHandedOver(info)
        return False

    async def _check_producer(self, tail: SharedReader) -> None:
        """Raise `ProducerLost` where the silence was too long for this follower."""
        timeout = self._producer_timeout
        if timeout is None or not tail.is_silent_for(timeout):
            return
        seen = tail.info
        # Notices can be lost, so the verdict needs one look of its own.
        info = await self._store.info(self.stream_id)
        if info.version == seen.version and info.state is _STREAMING:
            raise ProducerLost(info, timeout)
        tail.noticed()

    def _join(self) -> SharedReader:
        self._tail = SharedReader.join(self._store, self.stream_id)
        return self._tail

    def _leave(self) -> None:
        tail, self._tail = self._tail, None
        self._live = False
        if tail is not None:
            tail.leave()
