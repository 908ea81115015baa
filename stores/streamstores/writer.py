"""`StreamWriter`: a producer's end of a stream, with batches, back-pressure and retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from streamstores._attempts import Attempts
from streamstores._backlog import Backlog, after_bytes
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

    `write` returns at once while the buffer has room. Chunks that arrive while an append is
    in flight go out together as the next append, each as a record of its own; an idle writer
    does not delay. A writer waits `linger` seconds before an append to gather more chunks
    (default: what `store.limits` suggests). With `heartbeat` seconds, a writer that has
    nothing to append grows the version that often, so that followers know it is alive.

    Every append carries the version that the one before returned. Therefore another producer
    that takes the stream over, or any other change of the stream, ends this writer with
    `Conflict`, and a Stop ends it with `StreamClosed`.

    After `StoreUnavailable` and `OutcomeUnknown` the writer tries again for `retry_for`
    seconds. Nothing is lost or doubled, because only one of the attempts with the same
    version can be applied. After that time, or at any other error, it gives up, and every
    later call raises that error.

    `info` is the stream as this writer last knew it. Giving it saves one request at the
    start and fences against whatever changed the stream since.

    As a context manager it ends the stream: `done` after the block, `error` with the
    exception's text if the block raised, `stopped` if the block was cancelled.
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
        """The stream as this writer last knew it; None before the store was first asked."""
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
        self._backlog = Backlog()
        self._ending: _Ending | None = None
        self._failure: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._work = Bell()
        self._hurry = Bell()
        self._progress: set[asyncio.Future[None]] = set()
        self._ended: set[asyncio.Future[Exception | None]] = set()

    @property
    def unstored(self) -> list[bytes]:
        """The records that were accepted and that the store has not acknowledged, in order.

        After an error they can be given to another writer, as `continue_from` does. The first
        of them may be in the stream nevertheless if the last append's outcome is unknown.
        """
        return self._backlog.unstored

    def start(self) -> None:
        """Begin the heartbeat before the first `write`; otherwise never needed."""
        if self._task is None:
            name = f"streamstores: write {self.stream_id}"
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
            self._task.add_done_callback(self._task_done)

    async def write(self, chunk: bytes) -> None:
        """Wait while the buffer is full, then accept a chunk.

        A chunk over the store's `record_bytes` becomes several records; an empty one none.
        A `write` that raises or is cancelled has accepted nothing. Raises the error that
        ended the writer, and `InvalidRequest` after `aclose`.
        """
        self._check_writable()
        while self._backlog.waiting_bytes >= self._max_buffer_bytes:
            self._hurry.ring()
            await self._next_progress()
            self._check_writable()
        limit = self._store.limits.record_bytes
        for start in range(0, len(chunk), limit):
            self._backlog.add(bytes(chunk[start : start + limit]))
        if self._task is None:
            self.start()
        self._work.ring()

    async def flush(self) -> None:
        """Wait until the store has acknowledged all that was written.

        Raises the error that ended the writer.
        """
        target = self._backlog.accepted
        while self._backlog.stored < target:
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

        Without any of these the stream is left as it is. Returns its info, or None if the
        store was never asked. Idempotent: the first call decides. A cancelled close goes on
        in the background. Raises the error that ended the writer, and `InvalidRequest` for
        wrong arguments, which leaves the writer open.
        """
        if self._ending is None:
            limits = self._store.limits
            checked = check_mutation(limits, (), None, None, state, error, attributes)
            self._ending = _Ending(checked.state, error, attributes)
            if self._ending != _NO_CHANGE:
                self.start()
        self._work.ring()
        self._hurry.ring()
        await self._until_task_done()
        self._raise_failure()
        return self.info

    async def abort(self) -> None:
        """Stop writing at once. An append in flight may still be applied."""
        if self._ending is None:
            self._ending = _NO_CHANGE
        if self._task is not None:
            self._task.cancel()
        await self._until_task_done()

    def ended(self) -> asyncio.Future[Exception | None]:
        """A future of this writer's end, for a producer that has nothing to write or flush.

        Its result is the error that every later call raises, or None after a close. Each
        call makes a future of its own, so that cancelling one disturbs no other caller.
        """
        future: asyncio.Future[Exception | None]
        future = asyncio.get_running_loop().create_future()
        if self._has_ended:
            future.set_result(self._failure)
        else:
            self._ended.add(future)
            future.add_done_callback(self._ended.discard)
        return future

    def continue_from(self, info: StreamInfo) -> StreamWriter:
        """A started writer of the same stream and settings that begins with `unstored`.

        For a producer whose writer has ended with `StreamClosed` or `Conflict` and that has
        then reopened or claimed the stream, with `info` as the result. Raises `Conflict` if
        the stream does not end inside what this writer wrote, so that the text would have a
        hole or another producer's bytes, and `InvalidRequest` before this writer has ended.
        """
        if not self._has_ended:
            raise InvalidRequest("a writer is continued after it has ended")
        tail = info.tail if self.info is None else self.info.tail
        # An append in doubt may have landed: the tail tells how much of it is there.
        rest = None if info.tail < tail else after_bytes(self.unstored, info.tail - tail)
        if rest is None:
            what = f"stream {info.id!r} ends at {info.tail}, which this writer did not write"
            raise Conflict(what, info)
        writer = StreamWriter(
            self._store,
            self.stream_id,
            info=info,
            linger=self._linger,
            heartbeat=self._heartbeat,
            max_buffer_bytes=self._max_buffer_bytes,
            retry_for=self._retry_for,
        )
        for chunk in rest:
            writer._backlog.add(chunk)
        writer.start()
        return writer

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

    @property
    def _has_ended(self) -> bool:
        return self._ending is not None if self._task is None else self._task.done()

    def _check_writable(self) -> None:
        self._raise_failure()
        if self._ending is not None:
            raise InvalidRequest("the writer is closed")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def _next_progress(self) -> None:
        """Wait until an append was acknowledged or the writer has ended."""
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

    async def _until_task_done(self) -> None:
        if self._task is None:
            self._report_end()
        else:
            await asyncio.shield(asyncio.wait([self._task]))

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._failure = InvalidRequest("the writer was aborted")
        self._report_end()

    def _report_end(self) -> None:
        self._report_progress()
        for future in list(self._ended):
            if not future.done():
                future.set_result(self._failure)

    async def _run(self) -> None:
        """The one task that appends, until the writer is closed or fails."""
        try:
            if self.info is None:
                self.info = await self._patiently(lambda: self._store.info(self.stream_id))
            while True:
                await self._gather()
                batch = self._backlog.take(self._store.limits)
                ending = None if self._backlog else self._ending
                if batch or ending != _NO_CHANGE:
                    await self._commit(batch, ending or _NO_CHANGE)
                if ending is not None:
                    return
        except Exception as exc:
            self._failure = exc

    async def _gather(self) -> None:
        """Wait for something to append, then for more of it; returns for a heartbeat too."""
        if not self._backlog and self._ending is None:
            await self._work.wait(self._heartbeat)
        if self._linger and self._backlog and self._ending is None:
            await self._hurry.wait(self._linger)
        self._work.clear()
        self._hurry.clear()

    async def _commit(self, batch: tuple[bytes, ...], ending: _Ending) -> None:
        """Append, again and again while the store is away, until it is certain."""
        assert self.info is not None
        before = self.info
        attempts = Attempts(self._retry_for)
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
                if not in_doubt or not await self._has_landed(before, exc.info, batch, ending):
                    raise
                self.info = exc.info
                break
        self._backlog.acknowledge()
        self._report_progress()

    async def _has_landed(
        self, before: StreamInfo, now: StreamInfo, batch: tuple[bytes, ...], ending: _Ending
    ) -> bool:
        """Whether the change from `before` to `now` is exactly the append in doubt.

        A takeover that only grew the version would look like this writer's own heartbeat,
        which is why a takeover changes the attributes (see `streamstores.runs`).
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
        """The answer to a question, which may be repeated freely."""
        attempts = Attempts(self._retry_for)
        while True:
            try:
                return await call()
            except StoreUnavailable as exc:
                await attempts.pause(exc)
