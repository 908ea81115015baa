"""`StreamWriter`: the producer's end of a stream, with batching, back-pressure and retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from streamstores.changes import Bell
from streamstores.errors import (
    Conflict,
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamStoreError,
)
from streamstores.limits import check_seconds
from streamstores.mutations import check_mutation
from streamstores.store import State, StateLike, StreamInfo, StreamStore

__all__ = ["StreamWriter"]

T = TypeVar("T")


class _Ending(NamedTuple):
    """What the last append does besides adding the last records."""

    state: State | None = None
    error: str | None = None
    attributes: Mapping[str, str] | None = None


_NO_CHANGE = _Ending()


class StreamWriter:
    """Writes to one stream as its only producer.

    `write` returns at once while the buffer has room; what gathers while an append is in
    flight goes out as one append, each chunk a record of its own, and an idle writer does not
    delay. `linger` seconds (default: what `store.limits` suggests) are waited to gather more.
    With `heartbeat` seconds a silent writer grows the version that often, so that followers
    know it lives.

    Every append carries the version of the one before. So another producer that took the
    stream over, or anybody else's change, ends this writer with `Conflict`, and a Stop ends it
    with `StreamClosed`. After `StoreUnavailable` and `OutcomeUnknown` it tries again for
    `retry_for` seconds; nothing is lost or doubled, because the version lets only one try
    land. Then, or at another error, it gives up: the error is raised by every later call.

    `info` is the stream as this writer last knew it; giving it saves one request at the start
    and fences against whoever changed the stream since.

    As a context manager it ends the stream: `done` after the block, `error` with the
    exception's text where the block raised, `stopped` where it was cancelled.
    """

    def __init__(
        self,
        store: StreamStore,
        stream_id: str,
        *,
        info: StreamInfo | None = None,
        linger: float | None = None,
        heartbeat: float | None = None,
        max_buffer_bytes: int = 1_048_576,
        retry_for: float = 30.0,
    ) -> None:
        self.stream_id = stream_id
        self.info = info
        self._store = store
        self._linger = store.limits.linger if linger is None else linger
        self._heartbeat = heartbeat
        self._max_buffer_bytes = max_buffer_bytes
        self._retry_for = retry_for
        check_seconds(self._linger, "linger")
        check_seconds(retry_for, "retry_for")
        if heartbeat is not None and not heartbeat > 0:
            raise InvalidRequest(f"heartbeat is seconds above 0, not {heartbeat!r}")
        if max_buffer_bytes < 1:
            raise InvalidRequest(f"max_buffer_bytes is at least 1, not {max_buffer_bytes!r}")
        self._buffer: list[bytes] = []
        self._buffered = 0  # bytes in the buffer
        self._written = 0  # bytes accepted since the start
        self._stored = 0  # of these, bytes the store has
        self._ending: _Ending | None = None
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._work = Bell()
        self._hurry = Bell()
        self._progress: set[asyncio.Future[None]] = set()

    def start(self) -> None:
        """Begin the heartbeat before the first `write`; otherwise never needed."""
        if self._task is None:
            name = f"streamstores: write {self.stream_id}"
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    async def write(self, chunk: bytes) -> None:
        """Accept a chunk; wait only while the buffer is full.

        A chunk over the store's `record_bytes` becomes several records; an empty one none.
        A cancelled `write` has accepted its chunk. Raises what ended the writer.
        """
        self._check_writable()
        if not chunk:
            return
        limit = self._store.limits.record_bytes
        for start in range(0, len(chunk), limit):
            self._buffer.append(bytes(chunk[start : start + limit]))
        self._buffered += len(chunk)
        self._written += len(chunk)
        self.start()
        self._work.ring()
        while self._buffered >= self._max_buffer_bytes:
            self._hurry.ring()
            await self._next_progress()

    async def flush(self) -> None:
        """Wait until the store has all that was written. Raises what ended the writer."""
        target = self._written
        while self._stored < target:
            self._raise_failure()
            self._hurry.ring()
            await self._next_progress()
        self._raise_failure()

    async def aclose(
        self,
        state: StateLike | None = None,
        *,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo | None:
        """Flush, and with the last append set `state`, `error` and `attributes`, in one step.

        Without any of these the stream is left as it is. Returns its info, None if nothing
        was ever asked of the store. Idempotent: the first call decides. Raises what ended the
        writer, and `InvalidRequest`, which leaves it open. A cancelled close goes on in the
        background.
        """
        if self._ending is None:
            limits = self._store.limits
            checked = check_mutation(limits, (), None, None, state, error, attributes)
            self._ending = _Ending(checked.state, error, attributes)
            if self._ending != _NO_CHANGE:
                self.start()
        self._work.ring()
        self._hurry.ring()
        if self._task is not None:
            await asyncio.shield(asyncio.wait([self._task]))
        self._raise_failure()
        return self.info

    async def abort(self) -> None:
        """Stop writing at once and forget what is buffered; an append in flight may land."""
        if self._ending is None:
            self._ending = _NO_CHANGE
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> StreamWriter:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object
    ) -> None:
        if exc is None:
            await self.aclose(State.DONE)
        elif isinstance(exc, Exception):
            with suppress(StreamStoreError):  # the block's own error says more
                await self.aclose(State.ERROR, error=self._error_text(exc))
        else:
            with suppress(StreamStoreError):
                await self.aclose(State.STOPPED)

    def _error_text(self, exc: Exception) -> str:
        text = str(exc) or type(exc).__name__
        limit = self._store.limits.error_bytes
        return text.encode(errors="replace")[:limit].decode(errors="ignore")

    def _check_writable(self) -> None:
        self._raise_failure()
        if self._ending is not None:
            raise InvalidRequest("the writer is closed")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def _next_progress(self) -> None:
        self._raise_failure()
        waiter = asyncio.get_running_loop().create_future()
        self._progress.add(waiter)
        try:
            await waiter
        finally:
            self._progress.discard(waiter)

    def _report_progress(self) -> None:
        waiters, self._progress = self._progress, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _run(self) -> None:
        """The one task that appends, until the writer is closed or fails."""
        try:
            if self.info is None:
                self.info = await self._patiently(lambda: self._store.info(self.stream_id))
            while True:
                await self._gather()
                batch = self._take_batch()
                ending = None if self._buffer else self._ending
                if ending != _NO_CHANGE or batch:
                    await self._commit(batch, ending or _NO_CHANGE)
                if ending is not None:
                    return
        except asyncio.CancelledError:
            self._failure = InvalidRequest("the writer was aborted")
            raise
        except Exception as exc:
            self._failure = exc
        finally:
            self._report_progress()

    async def _gather(self) -> None:
        """Wait for something to append, then for more of it; returns for a heartbeat too."""
        if not self._buffer and self._ending is None:
            await self._work.wait(self._heartbeat)
        if self._linger and self._buffer and self._ending is None:
            await self._hurry.wait(self._linger)
        self._work.clear()
        self._hurry.clear()

    def _take_batch(self) -> tuple[bytes, ...]:
        """As much of the buffer as one append may hold."""
        limits = self._store.limits
        size = count = 0
        for chunk in self._buffer[: limits.append_records]:
            if size + len(chunk) > limits.append_bytes and count:
                break
            size += len(chunk)
            count += 1
        batch = tuple(self._buffer[:count])
        del self._buffer[:count]
        self._buffered -= size
        return batch

    async def _commit(self, batch: tuple[bytes, ...], ending: _Ending) -> None:
        """Append, again and again where the store is away, until it is certain."""
        assert self.info is not None
        before = self.info
        attempts = _Attempts(self._retry_for)
        in_doubt = False
        while True:
            try:
                self.info = await self._store.append(
                    self.stream_id,
                    *batch,
                    version=before.version,
                    state=ending.state,
                    error=ending.error,
                    attributes=ending.attributes,
                )
                break
            except StoreUnavailable as exc:
                await attempts.pause(exc)
            except OutcomeUnknown as exc:
                in_doubt = True
                await attempts.pause(exc)
            except (Conflict, StreamClosed) as exc:
                if not in_doubt or not await self._landed(before, exc.info, batch, ending):
                    raise
                self.info = exc.info
                break
        self._stored += sum(map(len, batch))
        self._report_progress()

    async def _landed(
        self, before: StreamInfo, now: StreamInfo, batch: tuple[bytes, ...], ending: _Ending
    ) -> bool:
        """Whether the change from `before` to `now` is exactly the append in doubt.

        A takeover that only grew the version would look like our own heartbeat, which is
        why a takeover changes the attributes (see `streamstores.runs`).
        """
        data = b"".join(batch)
        attributes = before.attributes if ending.attributes is None else ending.attributes
        return (
            now.version == before.version + 1
            and now.created_at == before.created_at
            and now.tail == before.tail + len(data)
            and now.state is (ending.state or before.state)
            and dict(now.attributes) == dict(attributes)
            and await self._read_back(before.tail, len(data)) == data
        )

    async def _read_back(self, offset: int, size: int) -> bytes:
        read = b""
        while len(read) < size:
            read_next = partial(self._store.read, self.stream_id, offset + len(read))
            page = await self._patiently(read_next)
            if not page.records:
                break
            read += b"".join(record.data for record in page.records)
        return read[:size]

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question that may be repeated freely."""
        attempts = _Attempts(self._retry_for)
        while True:
            try:
                return await call()
            except StoreUnavailable as exc:
                await attempts.pause(exc)


class _Attempts:
    """Pauses between tries, growing and jittered, until the time for them is up."""

    def __init__(self, retry_for: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._give_up_at = self._clock() + retry_for
        self._pause = 0.05

    async def pause(self, exc: StreamStoreError) -> None:
        """Sleep before the next try, or raise `exc`, the reason for it."""
        if self._clock() + self._pause > self._give_up_at:
            raise exc
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, 1.0)
