"""Changes of streams: requests that wait for one stream go out together, as one segment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.background_tasks import BackgroundTasks
from streamstores.backends._s3.change_requests import (
    ChangeRequest,
    Delete,
    Expire,
    expiring,
)
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams
from streamstores.backends._s3.segment_chain import SegmentChain
from streamstores.backends._s3.stream_heads import StreamHeads
from streamstores.backends._s3.writer_courtesy import WriterCourtesy
from streamstores.errors import (
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.limits import Limits
from streamstores.mutations import Mutation, changes_nothing, mutated, refuse
from streamstores.store import StreamInfo

_LOSSES = 2
"""Races lost in a row after which a change no longer reads each segment that won."""


class _QueuedRequest(NamedTuple):
    request: ChangeRequest
    future: asyncio.Future[StreamInfo]

    def succeed(self, info: StreamInfo) -> None:
        if not self.future.done():
            self.future.set_result(info)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _BatchPlan:
    """What a batch does to a stream. Each request sees the result of its predecessor."""

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.chunks: list[bytes] = []
        self.results: list[tuple[_QueuedRequest, StreamInfo | StreamStoreError]] = []
        self.writes = False
        self.kind = block_format.SEGMENT

    def add(self, queued: _QueuedRequest, now: datetime) -> None:
        try:
            result: StreamInfo | StreamStoreError = self._apply(queued.request, now)
        except StreamStoreError as exc:
            result = exc
        self.results.append((queued, result))

    def deliver(self) -> None:
        """Give each caller its result or its refusal."""
        for queued, result in self.results:
            if isinstance(result, StreamStoreError):
                queued.fail(result)
            else:
                queued.succeed(result)

    @property
    def has_expire(self) -> bool:
        return any(isinstance(queued.request, Expire) for queued, _ in self.results)

    def _apply(self, request: ChangeRequest, now: datetime) -> StreamInfo:
        """The stream after the request; raises what refuses it."""
        if isinstance(request, Delete):
            self.kind = block_format.TOMBSTONE
            self.writes = True
        elif isinstance(request, Expire):
            info = expiring(self.info, request, now)
            self.writes = self.writes or info is not self.info
            self.info = info
        elif not changes_nothing(self.info, request):
            refuse(self.info, request)
            self.info = mutated(self.info, request, now)
            self.chunks += request.chunks
            self.writes = True
        return self.info


class CommitQueues:
    """A queue for each stream that is being changed, and a task as long as it is not empty.

    A batch is one PUT under the condition that the key is free, so S3 alone decides a race.
    The loser reads the segment that won and decides every request of its batch again. A
    request is refused only by what S3 said after the request was made: by a PUT that
    succeeded, or by a look.
    """

    def __init__(
        self,
        streams: KnownStreams,
        chain: SegmentChain,
        heads: StreamHeads,
        limits: Limits,
        on_commit: Callable[[KnownStream], None],
    ) -> None:
        self._streams = streams
        self._storage = streams.storage
        self._chain = chain
        self._heads = heads
        self._limits = limits
        self._on_commit = on_commit
        self._queues: dict[str, list[_QueuedRequest]] = {}
        self._tasks = BackgroundTasks()
        self._courtesy = WriterCourtesy()
        self._is_closed = False

    async def submit(self, stream_id: str, request: ChangeRequest) -> StreamInfo:
        """The result of a request; a request cancelled before its turn is left out."""
        future: asyncio.Future[StreamInfo] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(stream_id)
        if queue is None:
            queue = self._queues[stream_id] = []
            # It begins in the next turn of the loop, with everything that was asked for in this
            # turn.
            self._tasks.start(self._work_off(stream_id, queue))
        queue.append(_QueuedRequest(request, future))
        return await future

    async def aclose(self, seconds: float) -> None:
        """Finish what is in flight within `seconds`; what is cut off is `OutcomeUnknown`.
        What still waits in a queue gets `StoreUnavailable`."""
        self._is_closed = True
        await self._tasks.aclose(seconds)

    async def _work_off(self, stream_id: str, queue: list[_QueuedRequest]) -> None:
        try:
            while queue:
                batch = self._take(queue)
                if batch:
                    await self._answer(stream_id, batch)
        finally:
            del self._queues[stream_id]
            _fail_all(queue, StoreUnavailable("the store was closed"))

    async def _answer(self, stream_id: str, batch: list[_QueuedRequest]) -> None:
        try:
            if self._is_closed:
                raise StoreUnavailable("the store was closed")
            await self._commit(stream_id, batch)
        except Exception as exc:
            _fail_all(batch, exc)
        except BaseException:  # cancelled with the loop, perhaps in the middle of a write
            _fail_all(batch, OutcomeUnknown("the store stopped in the middle of a change"))
            raise

    def _take(self, queue: list[_QueuedRequest]) -> list[_QueuedRequest]:
        """As many requests as one segment may hold.

        `expire` ends a batch, as the requests after it may find the stream expired;
        `delete` is a batch of its own.
        """
        batch: list[_QueuedRequest] = []
        size = count = taken = 0
        for queued in queue:
            request = queued.request
            if isinstance(request, Delete) and batch:
                break
            if isinstance(request, Mutation):
                size += request.size
                count += len(request.chunks)
                if batch and self._is_too_much(size, count):
                    break
            taken += 1
            if not queued.future.done():
                batch.append(queued)
                if not isinstance(request, Mutation):
                    break
        del queue[:taken]
        return batch

    def _is_too_much(self, size: int, count: int) -> bool:
        return size > self._limits.append_bytes or count > self._limits.append_records

    async def _commit(self, stream_id: str, batch: list[_QueuedRequest]) -> None:
        """Write the batch, or refuse it, by what the stream is now."""
        await self._courtesy.wait(stream_id)
        known = self._streams.known(stream_id)
        has_looked = False
        losses = 0
        rounds = self._storage.rounds(stream_id)
        while True:
            await rounds.begin()
            if known is None or (not has_looked and self._is_closed_or_expired(known)):
                look = self._streams.look if losses < _LOSSES else self._streams.jump
                known = await look(stream_id)
                has_looked = True
            if self._streams.has_expired(known):
                raise StreamNotFound(stream_id)
            if known.is_final:
                return await self._answer_finished(known, batch)
            plan = self._plan(known.info, batch)
            if plan.writes:
                if await self._write(known, plan):
                    return plan.deliver()
                losses += 1
            elif has_looked:  # a refusal by what was known before the call could be stale
                return plan.deliver()
            # Another writer was first, or what was known may be stale: the next round looks.
            known = None  # the segment that won may not be the newest any more: look again

    def _is_closed_or_expired(self, known: KnownStream) -> bool:
        return known.is_final or self._streams.has_expired(known)

    def _plan(self, info: StreamInfo, batch: list[_QueuedRequest]) -> _BatchPlan:
        plan = _BatchPlan(info)
        now = self._storage.clock.now()
        for queued in batch:
            plan.add(queued, now)
        return plan

    async def _write(self, known: KnownStream, plan: _BatchPlan) -> bool:
        """Write the next segment; False if another writer was first."""
        due = known.due
        # An expiry that slides has an entry already; a new or an earlier one needs another,
        # before the segment, so that a writer that dies in between leaves no stream for good.
        if plan.has_expire:
            due = await self._storage.calendar.note_expiry(plan.info, due)
        block = known.next_segment(
            plan.info, plan.chunks, due=due, stamp=self._storage.stamp(), kind=plan.kind
        )
        begun_at = time.monotonic()
        date = await self._chain.put(known, block)
        if date is None:
            return False
        self._courtesy.wrote(known.info.id, begun_at)
        if plan.kind == block_format.TOMBSTONE:
            with suppress(StoreUnavailable, OutcomeUnknown):  # a sweep removes the head
                await self._heads.remove(known)
            self._streams.forget(known.info.id)
        else:
            self._on_commit(self._streams.remember(known.after(block, date), block))
        return True

    async def _answer_finished(self, known: KnownStream, batch: list[_QueuedRequest]) -> None:
        """Nothing is appended to a finished stream: its head alone decides the rest."""
        for queued in batch:
            if isinstance(queued.request, Mutation):
                self._plan(known.info, [queued]).deliver()
            elif isinstance(queued.request, Expire):
                queued.succeed(await self._heads.expire(known, queued.request))
            else:
                await self._heads.delete(known)
                queued.succeed(known.info)


def _fail_all(batch: list[_QueuedRequest], error: Exception) -> None:
    for queued in batch:
        queued.fail(error)
