"""Appending: what waits goes out together, under the version that it was judged by.

**Exact.** An append carries the `version` of the info that its requests were judged by, so it
happens to that very stream in that very state or not at all: never to a namesake of another
content type, never beside a producer's sequence that has moved on. A `Conflict` brings the
new info, and the requests are judged again.

**One call.** The info after an append is kept (of the streams that this process appended to
last), so the next append needs no look. What is kept can be old: then it may lead to a
`Conflict`, but to no refusal. A request is refused only by an info that was read for it.

**Batches.** While an append to a stream is under way, the requests for that stream in this
process gather, and go out as one.
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
from streamstores.http.durable.attributes import Known
from streamstores.http.durable.drafts import Append, Draft, Taken
from streamstores.http.durable.forks import Forks
from streamstores.store import State, StreamStore

__all__ = ["Appender"]

Outcome = Union[Taken, HttpError]

_MOST_KNOWN = 512
_MOST_ATTEMPTS = 100
_CALM_ATTEMPTS = 10

_Waiting = tuple[Append, "asyncio.Future[Outcome]"]


class Appender:
    """The appends of one process."""

    def __init__(self, store: StreamStore, forks: Forks, producer_memory: float) -> None:
        self._store = store
        self._forks = forks
        self._producer_memory = producer_memory
        self._known: dict[str, Known] = {}  # in the order of their last appends
        self._lines: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, stream_id: str, request: Append) -> Taken:
        """Append, or find that it was done before.

        Raises `HttpError` where it is refused, `OutcomeUnknown` where a request without a
        producer was perhaps applied, and the store's errors. One store call where this
        process was the last to append; else one more.
        """
        line = self._lines.get(stream_id)
        if line is not None:
            outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            line.append((request, outcome))
            return _unwrap(await outcome)
        line = self._lines[stream_id] = []
        try:
            outcomes = await self._commit(stream_id, (request,))
            return _unwrap(outcomes[0])
        finally:
            if line:
                task = asyncio.get_running_loop().create_task(self._serve(stream_id, line))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                del self._lines[stream_id]

    def forget(self, stream_id: str) -> None:
        self._known.pop(stream_id, None)

    async def aclose(self) -> None:
        """Wait for the appends that are under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _serve(self, stream_id: str, line: list[_Waiting]) -> None:
        """Append for those who wait, until nobody does."""
        while line:
            batch = self._next_batch(line)
            del line[: len(batch)]
            try:
                outcomes = await self._commit(stream_id, [request for request, _ in batch])
            except BaseException as exc:
                for _, waiter in batch:
                    if not waiter.done():
                        waiter.set_exception(exc)
                if not isinstance(exc, Exception):
                    raise
            else:
                for (_, waiter), outcome in zip(batch, outcomes, strict=True):
                    if not waiter.done():
                        waiter.set_result(outcome)
        del self._lines[stream_id]

    def _next_batch(self, line: list[_Waiting]) -> list[_Waiting]:
        """The first ones of a kind, as many as one append takes: those with a producer can be
        judged again after `OutcomeUnknown`, the others not."""
        limits = self._store.limits
        has_claim = line[0][0].claim is not None
        size = records = count = 0
        for request, _ in line:
            size += request.size
            records += len(request.chunks)
            is_over = size > limits.append_bytes or records > limits.append_records
            if count and (is_over or (request.claim is not None) is not has_claim):
                break
            count += 1
        return line[:count]

    async def _commit(self, stream_id: str, requests: Sequence[Append]) -> list[Outcome]:
        """Judge the requests, which are all of one kind, and append what joins in."""
        known = self._known.pop(stream_id, None)  # put back when it is true again
        is_fresh = known is None
        known = known or await self._look(stream_id)
        for attempt in range(_MOST_ATTEMPTS):
            if attempt > _CALM_ATTEMPTS:
                await asyncio.sleep(random.uniform(0, 0.002) * attempt)
            draft = Draft(known, self._store.limits, self._producer_memory)
            outcomes = [draft.take(request) for request in requests]
            if not is_fresh and draft.accepted < len(requests):
                known, is_fresh = await self._look(stream_id), True
                continue
            if not draft.accepted:
                self._keep(known)
                return outcomes
            try:
                self._keep(await self._apply(draft))
                return outcomes
            except (Conflict, StreamClosed) as exc:
                known, is_fresh = await self._checked(known.at(exc.info)), True
            except OutcomeUnknown:
                if requests[0].claim is None:
                    self._keep(await self._insist(draft))
                    return outcomes
                known, is_fresh = await self._look(stream_id), True
        raise StoreUnavailable(f"others append to {stream_id!r} all the time")

    async def _apply(self, draft: Draft) -> Known:
        known = draft.known
        info = await self._store.append(
            known.info.id,
            *draft.chunks,
            version=known.info.version,
            state=State.DONE if draft.is_closed else None,
            attributes=draft.attributes,
        )
        return known.at(info)

    async def _insist(self, draft: Draft) -> Known:
        """Make an append again of which nobody knows whether it happened.

        Where the version has not moved it has not happened yet, and of the two only one can.
        Where it has moved, by it or by another's, nothing tells: there is no producer's
        sequence to look for. Raises `OutcomeUnknown`.
        """
        try:
            return await self._apply(draft)
        except StreamStoreError as exc:
            stream_id = draft.known.info.id
            raise OutcomeUnknown(f"an append to {stream_id!r} was perhaps applied") from exc

    async def _look(self, stream_id: str) -> Known:
        return await self._checked(Known.of(await self._store.info(stream_id)))

    async def _checked(self, known: Known) -> Known:
        """Raises where the stream is not one to append to."""
        await self._forks.check_exists(known.info)
        return known

    def _keep(self, known: Known) -> None:
        self._known[known.info.id] = known
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]


def _unwrap(outcome: Outcome) -> Taken:
    if isinstance(outcome, HttpError):
        raise outcome
    return outcome
