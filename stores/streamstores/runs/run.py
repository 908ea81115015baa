"""`Run`: a source on its way into its stream, from the claim to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from streamstores import observation
from streamstores._time_limits import in_time
from streamstores.errors import (
    Conflict,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.follow import follow
from streamstores.runs.ownership import OWNER, Owners, without_owner
from streamstores.runs.run_log import log_run
from streamstores.runs.source import (
    Revive,
    Source,
    as_exception,
    as_record,
    close_source,
    close_unread,
)
from streamstores.runs.state_watch import StateWatch
from streamstores.store import State, StreamInfo, StreamStore
from streamstores.writer import StreamWriter

__all__ = ["Phase", "Run", "RunSettings"]

CLOSE_SECONDS = 10.0
"""How long a source has to close before it is cancelled again, or left behind."""

_TURN_RECORDS = 64
RETRY_SECONDS = 1.0
"""How long a run waits before it asks a store again that was away."""


@dataclass(frozen=True)
class RunSettings:
    """What all runs of one process share; see `Runs` for the meaning of each."""

    store: StreamStore
    owners: Owners
    revive: Revive
    heartbeat: float
    pause_for: float
    describe_error: Callable[[Exception], str]

    def describe(self, stream_id: str, exc: Exception) -> str:
        """The public text for what a source raised; the rest goes to the log."""
        if observation.observer is not None:
            observation.observer.source_failed(exc)
        log_run("source_failed", stream_id, exc_info=exc)
        try:
            text = self.describe_error(exc)
            data = text.encode(errors="replace")
        except BaseException as failure:
            log_run("describe_error_failed", stream_id, exc_info=failure)
            data = b"The source failed."
        limit = self.store.limits.error_bytes
        return data[:limit].decode(errors="ignore")


class Phase(Enum):
    """Where a run is between its claim and its end."""

    PRODUCING = "producing"
    """The source is stepped, and its records are written."""
    PAUSED = "paused"
    """The writer has ended, and the source waits in the middle of what it was doing, because
    the stream was stopped or changed by another process."""
    ENDING = "ending"
    """The source is being closed. The stream may belong to another process already."""


class Run:
    """The producer of one stream.

    It has two tasks besides its writer's. `_drive` steps the source and lasts as long as the
    run. `_attend` has an eye on the stream: it watches for a stop or a takeover, holds the
    paused source, and claims the stream again. When `_attend` ends, the run ends. It begins
    with the first change that others make; until then a `StateWatch` is enough.

    What is not stored yet is known to the writer alone. A writer that has ended is followed
    by its continuation, and in between the source waits with at most a single record.
    """

    def __init__(
        self,
        settings: RunSettings,
        info: StreamInfo,
        source: Source,
        on_end: Callable[[Run], None],
    ) -> None:
        """Begin to drive `source` into the stream that `info`, just created or claimed,
        describes. `on_end(run)` is called once, when nothing of the run is left."""
        self.stream_id: str = info.id
        self.phase: Phase = Phase.PRODUCING
        self._seen = info
        self._settings = settings
        self._source = source
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._renewed: asyncio.Future[None] = self._loop.create_future()
        writer = StreamWriter(settings.store, info.id, info=info, heartbeat=settings.heartbeat)
        writer.start()
        self._write_with(writer)
        self._closing: asyncio.TimerHandle | None = None
        self._task = self._start(self._drive(), "run")
        self._task.add_done_callback(self._finish_ending)
        self._is_ending_stream = False
        self._attention: asyncio.Task[None] | None = None
        self._watch = StateWatch(settings.store, info, self._owns, self._state_changed)
        if not self._watch.is_watching:
            self._begin_attention(info)

    def __repr__(self) -> str:
        return f"<Run of {self.stream_id!r} on {self._settings.store!r}: {self.phase.value}>"

    async def save(self) -> StreamInfo | None:
        """Store what was yielded and stop the stream, in one append.

        Returns None if this run does not produce the stream now. Raises the store's errors,
        which end the run.
        """
        if self.phase is not Phase.PRODUCING:
            return None
        attributes = None if self._settings.pause_for else without_owner(self._info)
        try:
            return await self._writer.aclose(State.STOPPED, attributes=attributes)
        except (StreamClosed, Conflict):
            return None

    async def hand_over(self) -> None:
        """Store what was yielded, give the stream up, and end this run.

        A stream that no process can continue is stopped. Takes at most three times
        `CLOSE_SECONDS`.
        """
        state = None if await self._can_be_revived() else State.STOPPED
        closing = self._writer.aclose(state, attributes=without_owner(self._info))
        try:
            await in_time(closing, CLOSE_SECONDS)
        except (StreamClosed, Conflict, StreamNotFound):
            pass  # it belongs to another process already, or is gone
        except (StreamStoreError, asyncio.TimeoutError) as exc:
            log_run("not_handed_over", self.stream_id, because=exc)
        self._leave()
        await self._writer.abort()
        await self._ended.wait()

    @property
    def outcome(self) -> str:
        """How the run has ended, as `Observer.run` names it."""
        info = max(self._info, self._seen, key=_version_of)
        if info.state is not State.STREAMING:
            return str(info.state)
        if not self._owns(info):
            return "taken_over" if info.attributes.get(OWNER) else "handed_over"
        return "lost"  # the store failed, or the stream is gone

    @property
    def _info(self) -> StreamInfo:
        """The stream as the writer last knew it."""
        assert self._writer.info is not None, "a run's writer begins with the info of a claim"
        return self._writer.info

    async def _can_be_revived(self) -> bool:
        try:
            source = self._settings.revive(self._info)
        except BaseException as exc:  # another process may have a version that does not raise
            log_run("revive_failed", self.stream_id, exc_info=exc)
            return True
        if source is None:
            return False
        await close_unread(source, self.stream_id)
        return True

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        return self._loop.create_task(work, name=f"streamstores: {what} {self.stream_id}")

    # --- the source

    async def _drive(self) -> None:
        """Write what the source yields, end the stream as the source ended, and close it."""
        try:
            state, error = await self._write_records()
            await self._end_stream(state, error)
        finally:
            if self.phase is not Phase.ENDING:
                # The source has ended by itself: `_cancel` bounds the time that it may close.
                self.phase = Phase.ENDING
                self._closing = self._loop.call_later(CLOSE_SECONDS, self._cancel, 1)
            self._end_attention()
            await self._close_source()
            await self._writer.abort()

    async def _close_source(self) -> None:
        """Close the source, for at most `CLOSE_SECONDS` (see `_cancel`)."""
        try:
            await close_source(self._source)
        except BaseException as exc:  # also of a cancellation: the run ends either way
            log_run("source_not_closed", self.stream_id, exc_info=exc)

    async def _write_records(self) -> tuple[State, str | None]:
        """Step the source to its end; returns the state and the error to end with."""
        count = 0
        while True:
            try:
                record = await anext(self._source)
                if type(record) is not bytes:
                    record = as_record(record)
            except StopAsyncIteration:
                return State.DONE, None
            except BaseException as exc:  # the source must not end the process or its loop
                if self._is_cancelled(exc):
                    raise asyncio.CancelledError from exc
                return State.ERROR, self._settings.describe(self.stream_id, as_exception(exc))
            await self._write(record)
            count += 1
            if count % _TURN_RECORDS == 0:
                await asyncio.sleep(0)  # a source that never suspends must not hold the loop

    async def _write(self, record: bytes) -> None:
        """Write a record, after a pause if there is one."""
        writer = self._writer
        while True:
            try:
                return await writer.write(record)
            except Exception:  # it is `_writer_ended` that looks at the error
                writer = await self._writer_after(writer)

    async def _end_stream(self, state: State, error: str | None) -> None:
        """End the stream with the last records in one append, after a pause if there is one."""
        self._is_ending_stream = True
        writer = self._writer
        while True:
            with suppress(Exception):  # as in `_write`
                info = await writer.aclose(state, error=error)
                if info is not None and info.state is state:
                    return  # else a stop has closed the writer first
            writer = await self._writer_after(writer)

    async def _writer_after(self, writer: StreamWriter) -> StreamWriter:
        """The writer that continues `writer`, once the stream may be written to again."""
        while self._writer is writer:
            if self.phase is Phase.ENDING:  # its source took no notice of the cancellation
                raise asyncio.CancelledError
            await self._renewed
        return self._writer

    def _is_cancelled(self, exc: BaseException) -> bool:
        """Whether the source raised `exc` because its task is cancelled, not by itself."""
        if self.phase is Phase.ENDING:
            return True  # even a source that turns the cancellation into another exception
        cancelling = getattr(asyncio.current_task(), "cancelling", None)  # since Python 3.11
        is_asked = cancelling is not None and cancelling() > 0
        return is_asked and isinstance(exc, asyncio.CancelledError)

    # --- the stream

    def _write_with(self, writer: StreamWriter) -> None:
        """Produce with `writer`, as the owner that its info names."""
        assert writer.info is not None
        self._writer = writer
        self.owner: str = writer.info.attributes[OWNER]
        self.phase = Phase.PRODUCING
        writer.ended().add_done_callback(partial(self._writer_ended, writer))
        renewed, self._renewed = self._renewed, self._loop.create_future()
        if not renewed.done():
            renewed.set_result(None)

    def _writer_ended(
        self, writer: StreamWriter, ended: asyncio.Future[Exception | None]
    ) -> None:
        """Pause if the stream was stopped or changed; end if the store failed."""
        if writer is not self._writer or self.phase is not Phase.PRODUCING:
            return
        error = ended.result()
        if isinstance(error, (StreamClosed, Conflict)):
            self._pause(error.info)
        elif error is not None:
            self._report(error)
            self._leave()
        elif not self._info.state.is_final:  # else `_drive` has ended the stream
            self._pause(self._info)

    def _pause(self, info: StreamInfo) -> None:
        """Let go of the writer, and attend to the stream as `info` describes it."""
        # The phase first: the writer's end and the watch may both report the same stop.
        self.phase = Phase.PAUSED
        self._seen = info
        watching = self._attention
        self._begin_attention(info)
        if watching is not None:
            watching.cancel()

    def _state_changed(self, info: StreamInfo) -> None:
        # A writer that is ending the stream meets every change of others itself.
        if not self._is_ending_stream:
            self._begin_attention(info)

    def _begin_attention(self, info: StreamInfo) -> None:
        self._watch.stop()
        self._attention = self._start(self._attend(info), "watch")
        self._attention.add_done_callback(self._attention_done)

    def _end_attention(self) -> None:
        self._watch.stop()
        if self._attention is not None:
            self._attention.cancel()

    async def _attend(self, info: StreamInfo) -> None:
        """Watch the stream, or hold it if it is paused, in turn, until it is another's."""
        try:
            while True:
                if self.phase is Phase.PRODUCING:
                    info = await self._next_foreign_change(info)
                    self.phase = Phase.PAUSED
                    self._seen = info
                    # Wait for an append in flight: if it was in doubt, it may have landed. Its
                    # error has nothing to say that `info` does not.
                    with suppress(Exception):
                        await self._writer.aclose()
                writer = await self._hold(info)
                if writer is None:
                    return
                self._write_with(writer)
                info = self._info
        except asyncio.CancelledError:
            return  # raised, it would keep this run alive until the next garbage collection
        except Exception as exc:
            self._report(exc)
            self.phase = Phase.PAUSED  # `_writer_ended` must not report an end made here
            await self._writer.abort()

    async def _next_foreign_change(self, info: StreamInfo) -> StreamInfo:
        """The stream, which was as `info` describes it, when it has left streaming or has
        another owner. What this process appends itself costs no read of the store."""
        offset = info.tail
        seen: StreamInfo | None = info
        while True:
            follower = follow(self._settings.store, self.stream_id, offset, info=seen)
            try:
                return await follower.until(lambda info: not self._owns(info))
            except (StoreUnavailable, OutcomeUnknown):  # the writer decides when to give up
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                await follower.aclose()
            offset, seen = follower.offset, None

    async def _hold(self, info: StreamInfo) -> StreamWriter | None:
        """Keep the source of a stopped stream until the stream is reopened for its owner.

        Returns the writer to go on with, or None if the time is up or the stream is
        another's.
        """
        deadline = self._loop.time() + self._settings.pause_for
        while info.state is State.STOPPED and self._loop.time() < deadline:
            info = await self._next_change(info, deadline - self._loop.time())
        if info.state is not State.STREAMING or not self._owns(info):
            return None
        # Under a new owner, so that a process that found no answer in time cannot claim it too.
        claimed = await self._settings.owners.claim(info)
        if claimed is None:
            return None
        try:
            return self._writer.continue_from(claimed)
        except Conflict:
            return None

    async def _next_change(self, info: StreamInfo, timeout: float) -> StreamInfo:
        """The stream after its next change; `info` again if there is none in time."""
        try:
            return await self._settings.store.wait(
                self.stream_id, version=info.version, timeout=timeout
            )
        except (StoreUnavailable, OutcomeUnknown):  # a source that waits can wait longer
            await asyncio.sleep(min(RETRY_SECONDS, timeout))
            return info

    def _owns(self, info: StreamInfo | None) -> bool:
        return info is not None and info.attributes.get(OWNER) == self.owner

    def _report(self, exc: Exception) -> None:
        """Log why the run ends before its source."""
        if isinstance(exc, StreamNotFound):
            return  # the stream was deleted or has expired: there is nothing left to end
        if isinstance(exc, StreamStoreError):
            log_run("lost", self.stream_id, because=exc)
        else:
            log_run("failed", self.stream_id, exc_info=exc)

    # --- the end

    def _attention_done(self, attention: asyncio.Task[None]) -> None:
        if attention is self._attention:  # else another has taken its place
            self._leave()

    def _leave(self) -> None:
        """End this run, and say nothing to the store. Idempotent."""
        if self.phase is not Phase.ENDING:
            self.phase = Phase.ENDING
            self._end_attention()
            self._cancel(2)

    def _cancel(self, attempts: int) -> None:
        """Cancel the source: a second time if it is stuck in closing, then leave it behind."""
        if attempts:
            self._task.cancel()
            self._closing = self._loop.call_later(CLOSE_SECONDS, self._cancel, attempts - 1)
        else:
            log_run("source_stuck", self.stream_id)
            self._finish_ending(self._task)

    def _finish_ending(self, task: asyncio.Task[None]) -> None:
        if self._closing is not None:
            self._closing.cancel()
        if task.done() and not task.cancelled() and task.exception() is not None:
            log_run("failed", self.stream_id, exc_info=task.exception())
        if not self._ended.is_set():
            self._ended.set()
            self._on_end(self)


def _version_of(info: StreamInfo) -> int:
    return info.version
