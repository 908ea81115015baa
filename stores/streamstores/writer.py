"""`StreamWriter`: a producer's end of a stream, with batches, back-pressure and retries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from streamstores._writer.append_chain import NO_CHANGE, AppendChain, Ending
from streamstores._writer.backlog import Backlog, after_bytes
from streamstores._writer.chunks import records_from_chunk
from streamstores._writer.heartbeat import Heartbeat
from streamstores._writer.pace import Pace, pace_here
from streamstores.changes import Bell
from streamstores.errors import (
    Conflict,
    InvalidRequest,
    StreamStoreError,
)
from streamstores.limits import check_seconds
from streamstores.mutations import check_mutation
from streamstores.store import State, StateLike, StreamInfo, StreamStore

__all__ = ["StreamWriter"]


class StreamWriter:
    """Writes to one stream as its only producer.

    `write` returns at once while the buffer has room. Chunks that arrive while an append is
    in flight go out together as the next append, each as a record of its own. An idle writer
    appends at once, unless the process is busy: above about a thousand appends a second, the
    appends of all writers begin together, every 5 ms. A writer waits `linger` seconds before
    an append to gather more chunks (default: what `store.limits` suggests). With `heartbeat`
    seconds, a writer that has nothing to append grows the version that often, give or take a
    fiftieth, so that followers know it is alive. Writers with the same `heartbeat` do it at the
    same moments.

    Every append carries the version that the one before returned. Therefore another producer
    that takes the stream over, or any other change of the stream, ends this writer with
    `Conflict`, and a Stop ends it with `StreamClosed`.

    After `StoreUnavailable` and `OutcomeUnknown` the writer tries again for `retry_for`
    seconds. Nothing is lost or doubled, because only one of the attempts with the same
    version can be applied, however late it arrives. (To repeat an `append` without
    a version is not safe, even after a read that did not find it: it may still arrive.)
    After that time, or at any other error, the writer gives up, and every later call raises
    that error.

    `flush` and `aclose` return when the store has acknowledged everything under its own
    durability. Bytes that are found in the stream after an unknown outcome do not count as
    acknowledged before a later mutation of the stream is: that costs one more append.

    `info` is the stream as this writer last knew it. Giving it saves one request at the
    start and fences against whatever changed the stream since.

    `fenced=False` is for several producers that append to one stream at the same time. The
    records of each producer stay in order, and those of one append stay together. In exchange,
    a takeover is not noticed, and an append whose outcome is unknown is not repeated: it may
    be in the stream already, and its bytes cannot be told from another producer's. The writer
    then gives up with `OutcomeUnknown`, so nothing is doubled, and the caller decides what to
    do with the `unstored` records, of which the first may have landed. A state that a
    producer sets holds for all, and its attributes replace those that others have set.

    A chunk that is longer than the store's `record_bytes` becomes several records. With
    `split=False`, for records that have a meaning as a whole, such as JSON documents, `write`
    raises `LimitExceeded` instead.

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
        split: bool = True,
        fenced: bool = True,
    ) -> None:
        self.stream_id = stream_id
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
        self._split = split
        # Both bounds: a record that is longer than an append may be could never be sent.
        self._record_bytes = min(store.limits.record_bytes, store.limits.append_bytes)
        self._fenced = fenced
        self._chain = AppendChain(store, stream_id, info, retry_for, is_fenced=fenced)
        self._backlog = Backlog()
        self._ending: Ending | None = None
        self._failure: Exception | None = None
        self._has_ended = False  # and `_failure` says how
        self._task: asyncio.Task[None] | None = None
        self._pace: Pace | None = None
        self._work = Bell()
        self._hurry = Bell()
        self._progress: set[asyncio.Future[None]] = set()
        # In the order in which they were asked for: a producer that waits for the end learns of
        # it before the caller of the `aclose` that brings it.
        self._ended: dict[asyncio.Future[Exception | None], None] = {}

    @property
    def info(self) -> StreamInfo | None:
        """The stream as this writer last knew it; None before the store was first asked."""
        return self._chain.info

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
            self._pace = pace_here()
            name = f"streamstores: write {self.stream_id}"
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
            self._task.add_done_callback(self._task_done)

    async def write(self, chunk: bytes) -> None:
        """Accept a chunk of bytes, after waiting while the buffer is full.

        An empty chunk adds nothing. A `write` that raises or is cancelled has accepted
        nothing. Raises the error that ended the writer, `InvalidRequest` after `aclose` or
        for something other than bytes, and `LimitExceeded` with `split=False`.
        """
        records = [chunk]
        # The usual chunk skips the function below, because this runs for every token.
        if type(chunk) is not bytes or not 0 < len(chunk) <= self._record_bytes:
            records = records_from_chunk(chunk, self._store.limits, split=self._split)
        self._check_writable()
        while self._backlog.waiting_bytes >= self._max_buffer_bytes:
            self._append_now()
            await self._next_progress()
            # Once more after each wait, in which the writer may have failed or been closed.
            self._check_writable()
        # No `await` from here to the end: a cancelled `write` must not leave a part of its
        # chunk behind.
        backlog = self._backlog
        is_first = not backlog
        for record in records:
            backlog.add(record)
        if self._task is None:
            self.start()
        if is_first:  # else there is an append in flight, or one was asked for
            assert self._pace is not None, "it comes with the task"
            self._pace.start(self._append_soon)
        if backlog.waiting_bytes >= self._max_buffer_bytes:
            self._append_now()

    async def flush(self) -> None:
        """Wait until the store has acknowledged all that was written.

        Raises the error that ended the writer.
        """
        # What is written during the flush is not waited for, or a busy producer would keep it
        # waiting for ever.
        target = self._backlog.accepted
        while self._backlog.stored < target:
            self._raise_failure()
            self._append_now()
            await self._next_progress()
        # Everything may be stored and the writer ended all the same, by a takeover that a
        # heartbeat met.
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
            self._ending = Ending(checked.state, error, attributes)
            # A writer that was never used has no task yet, and still has a state to set.
            if self._ending != NO_CHANGE:
                self.start()
        self._work.ring()
        self._hurry.ring()  # nothing more will be gathered
        await self._until_task_done()
        self._raise_failure()
        return self.info

    async def abort(self) -> None:
        """Stop writing at once. An append in flight may still be applied."""
        if self._ending is None:
            self._ending = NO_CHANGE
        if self._task is not None:
            self._task.cancel()
        await self._until_task_done()

    def ended(self) -> asyncio.Future[Exception | None]:
        """A future of this writer's end, for a producer that has nothing to write or flush.

        Its result is the error that every later call raises, or None after a close. Each
        call makes a future of its own, which the caller may cancel.
        """
        future: asyncio.Future[Exception | None]
        future = asyncio.get_running_loop().create_future()
        if self._has_ended:
            future.set_result(self._failure)
        else:
            self._ended[future] = None
            future.add_done_callback(self._ended.pop)
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
        if not self._fenced:
            raise InvalidRequest("an unfenced writer does not know which bytes are its own")
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
            split=self._split,
        )
        # Not with `write`: they have been accepted before, and may be more than the buffer
        # holds at a time, which only a running writer would make room for.
        for chunk in rest:
            writer._backlog.add(chunk)
        writer.start()
        return writer

    def __repr__(self) -> str:
        status = "open"
        if self._failure is not None:
            status = f"ended by {type(self._failure).__name__}"
        elif self._ending is not None:
            status = "closed" if self._has_ended else "closing"
        size = self._backlog.accepted - self._backlog.stored
        unstored = f", {size} bytes unstored" if size else ""
        return f"<StreamWriter of {self.stream_id!r} on {self._store!r}: {status}{unstored}>"

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
            # The same exception is raised many times, and each time its traceback would grow.
            raise self._failure.with_traceback(None)

    def _append_soon(self) -> None:
        """Append what waits, after the linger. Nothing may wait any more: a flush does not wait
        for the pace."""
        if self._backlog:
            self._work.ring()

    def _append_now(self) -> None:
        self._append_soon()
        self._hurry.ring()

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
        elif not self._has_ended:
            # Not the task itself: a cancelled close must not end it half-way.
            await self.ended()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        # Here and not in the task, whose code does not run if it is cancelled before it starts.
        if task.cancelled():
            self._failure = InvalidRequest("the writer was aborted")
        self._report_end()

    def _report_end(self) -> None:
        self._has_ended = True
        self._report_progress()
        for future in list(self._ended):
            if not future.done():
                future.set_result(self._failure)

    async def _run(self) -> None:
        """The one task that appends, until the writer is closed or fails."""
        heartbeat = Heartbeat(self._heartbeat, self._work.ring)
        try:
            await self._chain.begin()
            while True:
                await self._gather()
                batch = self._backlog.take(self._store.limits)
                # The last records and the end are one append, so that no reader finds the whole
                # text and a stream that still waits for more.
                ending = None if self._backlog else self._ending
                if batch or ending != NO_CHANGE:
                    heartbeat.append_begins()
                    await self._chain.append(batch, ending or NO_CHANGE)
                    heartbeat.append_returned()
                    self._backlog.acknowledge()
                    if self._progress:
                        self._report_progress()
                if ending is not None:
                    return
        except Exception as exc:
            self._failure = exc
        finally:
            heartbeat.stop()

    async def _gather(self) -> None:
        """Wait for something to append, then for more of it; returns for a heartbeat too."""
        if not self._backlog and self._ending is None:
            await self._work.wait(None)
        if self._linger and self._backlog and self._ending is None:
            await self._hurry.wait(self._linger)
        # What rang until now is in the next append. A ring that was left would make
        # an empty append.
        self._work.clear()
        self._hurry.clear()
