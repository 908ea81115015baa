"""Changing a stream: what waits for one stream goes out together as its next segment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.heads import Expire, Heads, expiring
from streamstores.backends._s3.keys import Keys
from streamstores.backends._s3.streams import Known, Streams, after
from streamstores.backends._s3.tasks import Tasks
from streamstores.backends._s3.transport import FOUND, MISSING, WRITTEN, Bucket
from streamstores.errors import (
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.limits import Limits
from streamstores.mutations import Mutation, changes_nothing, mutated, refuse
from streamstores.store import StreamInfo


class Delete(NamedTuple):
    """A request to `delete`."""


Request = Mutation | Expire | Delete


class _Waiting(NamedTuple):
    request: Request
    future: asyncio.Future[StreamInfo]


class _Plan:
    """What a batch does to a stream, request after request, each on the result of the one
    before."""

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.chunks: list[bytes] = []
        self.results: list[tuple[_Waiting, StreamInfo | StreamStoreError]] = []
        self.writes = False
        self.kind = blocks.SEGMENT

    def add(self, waiting: _Waiting, now: datetime) -> None:
        try:
            result: StreamInfo | StreamStoreError = self._apply(waiting.request, now)
        except StreamStoreError as exc:
            result = exc
        self.results.append((waiting, result))

    def _apply(self, request: Request, now: datetime) -> StreamInfo:
        if isinstance(request, Delete):
            self.kind = blocks.TOMBSTONE
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


class Commits:
    """One queue, and while it is not empty one task, for each stream that is changed.

    A batch is one PUT under the condition that the key is free, so S3 alone decides a race.
    Who lost looks what won and decides every request of the batch again. A request is
    refused only on what S3 said after it came: by a PUT that succeeded, or by a look.
    """

    def __init__(
        self,
        streams: Streams,
        bucket: Bucket,
        keys: Keys,
        calendar: Calendar,
        heads: Heads,
        limits: Limits,
    ) -> None:
        self.on_commit: Callable[[Known], None] = _ignore
        self._streams = streams
        self._bucket = bucket
        self._keys = keys
        self._calendar = calendar
        self._heads = heads
        self._limits = limits
        self._queues: dict[str, list[_Waiting]] = {}
        self._tasks = Tasks()
        self._is_closed = False

    async def submit(self, stream_id: str, request: Request) -> StreamInfo:
        """The result of a request; one that is cancelled before its turn is left out."""
        future: asyncio.Future[StreamInfo] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(stream_id)
        if queue is None:
            queue = self._queues[stream_id] = []
            self._tasks.start(self._run(stream_id, queue))
        queue.append(_Waiting(request, future))
        return await future

    async def aclose(self) -> None:
        """Let what is in flight arrive; what still waits in a queue gets
        `StoreUnavailable`."""
        self._is_closed = True
        await self._tasks.aclose()

    async def _run(self, stream_id: str, queue: list[_Waiting]) -> None:
        try:
            while queue:
                batch = self._take(queue)
                if batch:
                    await self._answer(stream_id, batch)
        finally:
            del self._queues[stream_id]
            _fail(queue, StoreUnavailable("the store was closed"))

    async def _answer(self, stream_id: str, batch: list[_Waiting]) -> None:
        try:
            if self._is_closed:
                raise StoreUnavailable("the store was closed")
            await self._commit(stream_id, batch)
        except Exception as exc:
            _fail(batch, exc)
        except BaseException:
            _fail(batch, StoreUnavailable("the store stopped in the middle"))
            raise

    def _take(self, queue: list[_Waiting]) -> list[_Waiting]:
        """As many requests as one segment may hold. `expire` ends a batch, as what follows
        it may find the stream gone; `delete` is one of its own."""
        batch: list[_Waiting] = []
        size = count = taken = 0
        for waiting in queue:
            request = waiting.request
            if isinstance(request, Delete) and batch:
                break
            if isinstance(request, Mutation):
                size += request.size
                count += len(request.chunks)
                if batch and self._is_too_much(size, count):
                    break
            taken += 1
            if not waiting.future.done():
                batch.append(waiting)
                if not isinstance(request, Mutation):
                    break
        del queue[:taken]
        return batch

    def _is_too_much(self, size: int, count: int) -> bool:
        return size > self._limits.append_bytes or count > self._limits.append_records

    async def _commit(self, stream_id: str, batch: list[_Waiting]) -> None:
        known = self._streams.known(stream_id)
        has_looked = False
        while True:
            if known is None or (not has_looked and self._is_over(known)):
                known = await self._streams.look(stream_id)
                has_looked = True
            if self._streams.has_ended(known):
                raise StreamNotFound(stream_id)
            if known.is_final:
                return await self._answer_finished(known, batch)
            plan = self._plan(known.info, batch)
            if plan.writes:
                written = await self._write(known, plan)
                if written is not None:
                    return self._succeed(written, plan)
            elif has_looked:
                return _deliver(plan)
            known = None

    def _is_over(self, known: Known) -> bool:
        return known.is_final or self._streams.has_ended(known)

    def _plan(self, info: StreamInfo, batch: list[_Waiting]) -> _Plan:
        plan = _Plan(info)
        now = self._bucket.clock.now()
        for waiting in batch:
            plan.add(waiting, now)
        return plan

    def _succeed(self, known: Known, plan: _Plan) -> None:
        if plan.kind == blocks.TOMBSTONE:
            self._streams.forget(known.info.id)
        _deliver(plan)

    async def _write(self, known: Known, plan: _Plan) -> Known | None:
        """The stream after the next segment is written; None where another was first."""
        due = known.due
        if any(isinstance(waiting.request, Expire) for waiting, _ in plan.results):
            due = await self._calendar.note_end(plan.info, due)
        block = Block(
            plan.kind,
            known.info.id,
            known.generation,
            known.number + 1,
            known.info.tail,
            self._heads.nonce(),
            plan.info,
            known.info.expires_at,
            due,
            None,
            self._bucket.clock.seconds(),
            tuple(map(len, plan.chunks)),
            b"".join(plan.chunks),
        )
        date = await self.put_segment(known, block)
        if date is None:
            return None
        now_known = after(known, block, date)
        if plan.kind == blocks.TOMBSTONE:
            with suppress(StoreUnavailable, OutcomeUnknown):  # a sweep will do it
                await self._heads.remove(known)
            return now_known
        self._streams.learn(now_known, block)
        self.on_commit(now_known)
        return now_known

    async def put_segment(self, known: Known, block: Block) -> float | None:
        """S3's time of the write; None where it did not become part of a living stream.

        Raises `StreamNotFound` where S3 took it after the stream had expired, and
        `OutcomeUnknown` where nothing that S3 says now can tell.
        """
        key = self._keys.segment(known.generation, block.number)
        try:
            answer = await self._bucket.put(key, blocks.encode(block), absent=True)
        except OutcomeUnknown as exc:
            date = await self._found_own(known, key, block, exc)
        else:
            date = answer.date
            if answer.status != WRITTEN:
                date = await self._found_own(known, key, block, None)
        if date is None or not await self._streams.is_whole(known, date):
            return None
        await self._check_time(key, block, date)
        return date

    async def _found_own(
        self, known: Known, key: str, block: Block, doubt: OutcomeUnknown | None
    ) -> float | None:
        """S3's time if the object is our own block, of an earlier try; None if another's,
        which is then taken for what it is."""
        try:
            answer = await self._bucket.get(key)
        except StoreUnavailable as exc:
            if doubt is not None:
                raise doubt from exc
            raise
        if answer.status == MISSING:
            if doubt is not None:
                raise doubt  # it may arrive yet
            return None
        found = blocks.decode(answer.body, key)
        if found.nonce == block.nonce:
            return answer.date
        if self._streams.is_fresh(known, answer.date):
            with suppress(StreamNotFound):  # the next look says so too
                self._streams.step(known, found, answer)
        return None

    async def _check_time(self, key: str, block: Block, date: float) -> None:
        end = block.was_expiring_at
        if end is None or date + 2 < end.timestamp():
            return
        answer = await self._bucket.get(key, last=0)
        if answer.status == FOUND and block.is_void(answer.modified):
            raise self._streams.forget(block.stream_id)

    async def close_chain(self, known: Known) -> bool:
        """Write the tombstone of an expired stream; False where somebody wrote first."""
        tombstone = Block(
            blocks.TOMBSTONE,
            known.info.id,
            known.generation,
            known.number + 1,
            known.info.tail,
            self._heads.nonce(),
            known.info,
        )
        return await self.put_segment(known, tombstone) is not None

    async def _answer_finished(self, known: Known, batch: list[_Waiting]) -> None:
        """On a finished stream nothing is appended: its head alone decides the rest."""
        for waiting in batch:
            if isinstance(waiting.request, Mutation):
                _deliver(self._plan(known.info, [waiting]))
            elif isinstance(waiting.request, Expire):
                _succeed(waiting, await self._heads.expire(known, waiting.request))
            else:
                await self._heads.delete(known)
                _succeed(waiting, known.info)


def _ignore(known: Known) -> None:
    """Nobody wants to hear of commits yet."""


def _deliver(plan: _Plan) -> None:
    for waiting, result in plan.results:
        if isinstance(result, StreamStoreError):
            _fail([waiting], result)
        else:
            _succeed(waiting, result)


def _succeed(waiting: _Waiting, info: StreamInfo) -> None:
    if not waiting.future.done():
        waiting.future.set_result(info)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
