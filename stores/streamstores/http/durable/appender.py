"""Appends: waiting requests go out together, under the version that they were judged by.

**Exact.** An append carries the `version` of the info that its requests were judged by. So it
happens to that very stream in that very state or not at all: never to a namesake with another
content type, and never after a producer's sequence has moved on. A `Conflict` brings the new
info, and the requests are judged again.

**One call.** The info after an append is cached, for the streams that this process appended to
most recently, so the next append needs no read. A cached info may be stale. That can cause a
`Conflict` but never a refusal, because a request is refused only by an info that was read for
it.

**Batches.** While an append to a stream is under way, further requests for that stream in this
process gather, and go out as a single append.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Union

from streamstores.errors import (
    Conflict,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamStoreError,
)
from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable.attributes import ParsedStream
from streamstores.http.durable.drafts import AppendRequest, Draft, Taken
from streamstores.http.durable.forks import Forks
from streamstores.store import State, StreamStore

__all__ = ["Appender"]

Outcome = Union[Taken, HttpError]

_MOST_KNOWN = 512
_MOST_ATTEMPTS = 100
_CALM_ATTEMPTS = 10

_Waiting = tuple[AppendRequest, "asyncio.Future[Outcome]"]


class Appender:
    """The appends of one process, with the cached infos of their streams."""

    def __init__(self, store: StreamStore, forks: Forks, producer_memory: float) -> None:
        self._store = store
        self._forks = forks
        self._producer_memory = producer_memory
        self._known: dict[str, ParsedStream] = {}  # in the order of their last appends
        self._lines: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, stream_id: str, request: AppendRequest) -> Taken:
        """Append, or find that the producer's request was done before.

        Raises `HttpError` for a refusal, `OutcomeUnknown` if a request without a producer may
        have been applied, and the store's errors. Costs one store call if this process was the
        last to append to the stream, else two.
        """
        line = self._lines.get(stream_id)
        if line is not None:
            outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            line.append((request, outcome))
            return _unwrap(await outcome)
        # This request goes first, and those that arrive during its append line up behind it. A
        # task is started only if there are any.
        line = self._lines[stream_id] = []
        try:
            outcomes = await self._commit(stream_id, (request,))
            return _unwrap(outcomes[0])
        finally:
            # In `finally`, because a leader that was refused or cancelled still has others
            # behind it.
            if line:
                task = asyncio.get_running_loop().create_task(self._serve(stream_id, line))
                # The event loop itself holds its tasks by weak references only.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                del self._lines[stream_id]

    def forget(self, stream_id: str) -> None:
        self._known.pop(stream_id, None)

    async def aclose(self) -> None:
        """Wait until the appends that are under way have ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _serve(self, stream_id: str, line: list[_Waiting]) -> None:
        """Append for the requests in `line`, batch after batch, until it is empty."""
        while line:
            batch = self._next_batch(line)
            del line[: len(batch)]
            try:
                outcomes = await self._commit(stream_id, [request for request, _ in batch])
            except BaseException as exc:
                for _, waiter in batch:
                    if not waiter.done():
                        waiter.set_exception(exc)
                # A cancellation is passed to the waiting requests, which would otherwise hang,
                # and then obeyed.
                if not isinstance(exc, Exception):
                    raise
            else:
                for (_, waiter), outcome in zip(batch, outcomes, strict=True):
                    # A client that has left is not told, but its request was appended with the
                    # others.
                    if not waiter.done():
                        waiter.set_result(outcome)
        del self._lines[stream_id]

    def _next_batch(self, line: list[_Waiting]) -> list[_Waiting]:
        """The first requests of one kind, as many as one append takes.

        Requests with a producer and without do not mix, because only the former can be judged
        again after `OutcomeUnknown`.
        """
        limits = self._store.limits
        has_claim = line[0][0].claim is not None
        size = records = count = 0
        for request, _ in line:
            size += request.size
            records += len(request.chunks)
            is_over = size > limits.append_bytes or records > limits.append_records
            # The first is taken in any case: if it is too long by itself, the store refuses it
            # and says why.
            if count and (is_over or (request.claim is not None) is not has_claim):
                break
            count += 1
        return line[:count]

    async def _commit(self, stream_id: str, requests: Sequence[AppendRequest]) -> list[Outcome]:
        """Judge the requests, which are all of one kind, and append those that are accepted."""
        known = self._known.pop(stream_id, None)  # it is stale during the append
        is_fresh = known is None
        known = known or await self._look(stream_id)
        for attempt in range(_MOST_ATTEMPTS):
            if attempt > _CALM_ATTEMPTS:  # several processes append to this stream at once
                await asyncio.sleep(random.uniform(0, 0.002) * attempt)
            draft = Draft(known, self._store.limits, self._producer_memory)
            outcomes = [draft.take(request) for request in requests]
            if not is_fresh and draft.accepted < len(requests):  # never refuse on stale info
                known, is_fresh = await self._look(stream_id), True
                continue
            if not draft.accepted:
                self._keep(known)
                return outcomes
            try:
                self._keep(await self._apply(draft))
                return outcomes
            except (Conflict, StreamClosed) as exc:
                # The error brings the info that the store has just compared, so it is fresh
                # without a read.
                known, is_fresh = await self._checked(known.at(exc.info)), True
            except OutcomeUnknown:
                if requests[0].claim is None:
                    self._keep(await self._insist(draft))
                    return outcomes
                # A producer's requests are judged again: their sequence numbers tell whether
                # they landed.
                known, is_fresh = await self._look(stream_id), True
        raise StoreUnavailable(f"{_MOST_ATTEMPTS} appends to {stream_id!r} met a conflict")

    async def _apply(self, draft: Draft) -> ParsedStream:
        known = draft.known
        info = await self._store.append(
            known.info.id,
            *draft.chunks,
            version=known.info.version,
            state=State.DONE if draft.is_closed else None,
            attributes=draft.attributes,
        )
        return known.at(info)

    async def _insist(self, draft: Draft) -> ParsedStream:
        """Repeat an append of unknown outcome, under the same version.

        If it succeeds, the first attempt was not applied and can no longer be. If it conflicts,
        nothing tells whether the first attempt or another writer moved the version, because
        there is no producer's sequence to compare. Raises `OutcomeUnknown` then.
        """
        try:
            return await self._apply(draft)
        except StreamStoreError as exc:
            stream_id = draft.known.info.id
            raise OutcomeUnknown(f"an append to {stream_id!r} may have been applied") from exc

    async def _look(self, stream_id: str) -> ParsedStream:
        return await self._checked(ParsedStream.of(await self._store.info(stream_id)))

    async def _checked(self, known: ParsedStream) -> ParsedStream:
        """The same. Raises if the stream is a tombstone or an unfinished copy."""
        await self._forks.check_exists(known.info)
        return known

    def _keep(self, known: ParsedStream) -> None:
        self._known[known.info.id] = known
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]


def _unwrap(outcome: Outcome) -> Taken:
    if isinstance(outcome, HttpError):
        raise outcome
    return outcome
