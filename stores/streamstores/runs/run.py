"""One run: a source on its way into one stream, from the claim to the end."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from streamstores.errors import (
    Conflict,
    InvalidRequest,
    StoreUnavailable,
    StreamClosed,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.follow import follow
from streamstores.store import State, StreamInfo
from streamstores.writer import StreamWriter

if TYPE_CHECKING:
    from streamstores.runs import Runs

__all__ = ["OWNER", "Run", "Source", "close_source"]

OWNER = "owner"
"""The attribute that names who may produce."""

CLOSE_SECONDS = 10.0
"""How long a source has to close before it is left behind."""

_TURN_RECORDS = 64

Source = AsyncIterator[bytes]
"""What a run drives: records, none of them empty. It is closed by `aclose`, if it has one."""

T = TypeVar("T")

_log = logging.getLogger("streamstores.runs")


class Run:
    """The producer of one stream.

    Two tasks: `_pull` steps the source and writes, `task` decides. A pause leaves `_pull`
    where it is, in the middle of a step or at the gate `_open`, so that the source goes on
    later as if nothing had been.
    """

    def __init__(self, runs: Runs, info: StreamInfo, source: Source) -> None:
        self.stream_id = info.id
        self.is_ending = False
        self._runs = runs
        self._source = source
        self._position = info.tail  # what was given to a writer ends here
        self._unstored: deque[tuple[int, bytes]] = deque()  # (end, record), perhaps not stored
        self._open = asyncio.Event()
        self._leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._renew(info)
        self._open.set()
        self.task = self._task(self._main(info), "run")

    async def save(self) -> StreamInfo | None:
        """Store what was yielded and stop the stream, in one append; None where this run
        is no longer its producer. Raises the store's other errors."""
        self._open.clear()
        attributes = None if self._runs.pause_for else self._without_owner()
        try:
            info = await self._writer.aclose(State.STOPPED, attributes=attributes)
        except (StreamClosed, Conflict) as exc:
            self._tell(exc.info)
            return None
        except StreamStoreError:
            self._give_up()
            raise
        if info is not None:
            self._tell(info)
        return info

    async def hand_over(self) -> None:
        """Store what was yielded, give the stream up, and end this run."""
        self._open.clear()
        state = State.STOPPED if self._runs.revive(self._info) is None else None
        closing = self._writer.aclose(state, attributes=self._without_owner())
        try:
            await asyncio.wait_for(closing, CLOSE_SECONDS)
        except (StreamClosed, Conflict, StreamNotFound):
            pass  # it is somebody else's already, or nobody's
        except (StreamStoreError, asyncio.TimeoutError) as exc:
            _log.warning("stream %r was not handed over: %s", self.stream_id, exc)
        self._give_up()
        await asyncio.wait([self.task])

    @property
    def _info(self) -> StreamInfo:
        """The stream as the writer last knew it."""
        assert self._writer.info is not None, "a run's writer begins with the info of a claim"
        return self._writer.info

    def _without_owner(self) -> dict[str, str]:
        return {**self._info.attributes, OWNER: ""}

    def _renew(self, info: StreamInfo) -> None:
        """A fresh writer, for the owner that `info` names."""
        self.owner = info.attributes[OWNER]
        self._news: asyncio.Future[StreamInfo] = asyncio.get_running_loop().create_future()
        self._writer = StreamWriter(
            self._runs.store, self.stream_id, info=info, heartbeat=self._runs.heartbeat
        )
        self._writer.start()

    def _task(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        name = f"streamstores: {what} {self.stream_id}"
        return asyncio.get_running_loop().create_task(work, name=name)

    def _tell(self, info: StreamInfo) -> None:
        """The stream is not as its writer left it, but as `info` says."""
        self._open.clear()
        if not self._news.done():
            self._news.set_result(info)

    def _give_up(self) -> None:
        self._open.clear()
        if not self._leave.done():
            self._leave.set_result(None)

    async def _main(self, info: StreamInfo) -> None:
        pull = self._task(self._pull(), "pull")
        current: StreamInfo | None = info
        try:
            while current is not None:
                seen = await self._produce(current, pull)
                current = None if seen is None else await self._hold(seen)
        except StreamNotFound:
            pass  # deleted or expired: there is nothing left to end
        except StreamStoreError as exc:
            _log.warning("stream %r lost its producer: %s", self.stream_id, exc)
        except Exception:
            _log.exception("the run of stream %r failed", self.stream_id)
        finally:
            await self._end(pull)

    async def _produce(self, info: StreamInfo, pull: asyncio.Task[None]) -> StreamInfo | None:
        """Let the source run until it has ended (None) or something happened to the stream
        (its info)."""
        watch = self._task(self._watch(info.tail), "watch")
        ends: set[asyncio.Future[Any]] = {pull, watch, self._news, self._leave}
        try:
            while True:
                await asyncio.wait(
                    ends,
                    timeout=self._runs.heartbeat,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if pull.done():
                    await self._after(pull)
                    return None
                if self._leave.done():
                    return None
                if self._news.done():
                    return self._news.result()
                if watch.done():
                    return await watch
                await self._check_writer()
        finally:
            self._open.clear()
            watch.cancel()
            await asyncio.wait([watch])
            _read_failure(watch)

    async def _watch(self, offset: int) -> StreamInfo:
        """The info when the stream has left streaming or has another owner. What this
        process appends itself costs no read of the store."""
        while True:
            follower = follow(self._runs.store, self.stream_id, offset)
            try:
                while await follower.batch():
                    if not self._owns(follower.info):
                        break
                assert follower.info is not None
                return follower.info
            except StoreUnavailable:  # whether to give up is the writer's decision
                await asyncio.sleep(1.0)
            offset = follower.offset

    async def _check_writer(self) -> None:
        """Learn of a writer that failed while the source is silent."""
        try:
            await self._writer.flush()
        except (StreamClosed, Conflict) as exc:
            self._tell(exc.info)

    async def _hold(self, info: StreamInfo) -> StreamInfo | None:
        """Keep the source of a stopped stream until its owner is asked to go on; the info
        as claimed anew, or None when the time is up or the stream is another's."""
        with suppress(StreamStoreError):
            await self._writer.aclose()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._runs.pause_for
        while info.state is State.STOPPED and clock() < deadline and not self._leave.done():
            info = await self._next_change(info, deadline - clock())
        if info.state is not State.STREAMING or not self._owns(info):
            return None
        claimed = await self._runs.claim(info)
        if claimed is None or not self._rewind_to(claimed.tail):
            return None
        self._renew(claimed)
        await self._write_again()
        return claimed

    async def _next_change(self, info: StreamInfo, timeout: float) -> StreamInfo:
        """The stream's next version, or the same info when the time is up."""
        store = self._runs.store
        waiting = self._task(
            store.wait(self.stream_id, version=info.version, timeout=timeout), "hold"
        )
        try:
            ends: set[asyncio.Future[Any]] = {waiting, self._leave}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return await waiting if waiting.done() else info
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    def _owns(self, info: StreamInfo | None) -> bool:
        return info is not None and info.attributes.get(OWNER) == self.owner

    def _rewind_to(self, tail: int) -> bool:
        """Forget what is stored; False where the stream does not end as this run left it."""
        self._forget_stored(tail)
        if self._unstored:
            end, record = self._unstored[0]
            start = max(end - len(record), tail)  # a long record may be stored in part
            self._unstored[0] = (end, record[start - end :])
        unstored = sum(len(record) for _, record in self._unstored)
        return self._position - unstored == tail

    def _forget_stored(self, tail: int) -> None:
        while self._unstored and self._unstored[0][0] <= tail:
            self._unstored.popleft()

    async def _write_again(self) -> None:
        for _, record in list(self._unstored):
            await self._write(record)
        if not self._news.done():
            self._open.set()

    async def _pull(self) -> None:
        """Step the source to its end, and end the stream."""
        state, error = State.DONE, None
        while True:
            try:
                record = await anext(self._source)
            except StopAsyncIteration:
                break
            except Exception as exc:
                state, error = State.ERROR, self._describe(exc)
                break
            await self._until_open()
            self._position += len(record)
            self._unstored.append((self._position, record))
            await self._write(record)
            if len(self._unstored) % _TURN_RECORDS == 0:
                await asyncio.sleep(0)  # a source that never suspends must not hold the loop
        await self._finish(state, error)

    async def _until_open(self) -> None:
        while not self._open.is_set():  # a gate may close again before the waiter runs
            await self._open.wait()

    async def _write(self, record: bytes) -> None:
        """Give a record to the writer. It stays in `_unstored` until the store has it, so a
        stop in between loses nothing."""
        try:
            await self._writer.write(record)
        except (StreamClosed, Conflict) as exc:
            self._tell(exc.info)
        except InvalidRequest:
            if self._open.is_set():
                raise  # else a stop has closed the writer
        self._forget_stored(self._info.tail)

    async def _finish(self, state: State, error: str | None) -> None:
        while True:
            await self._until_open()
            try:
                await self._writer.aclose(state, error=error)
                return
            except (StreamClosed, Conflict) as exc:
                self._tell(exc.info)

    async def _after(self, pull: asyncio.Task[None]) -> None:
        """Raise what ended `pull`; a source that cancelled itself ends in an error."""
        if pull.cancelled():
            error = self._describe(RuntimeError("the source cancelled itself"))
            await self._writer.aclose(State.ERROR, error=error)
        else:
            await pull

    def _describe(self, exc: Exception) -> str:
        """The public text for what the source raised; the rest goes to the log."""
        _log.error("the source of stream %r failed", self.stream_id, exc_info=exc)
        try:
            text = self._runs.describe_error(exc)
            data = text.encode(errors="replace")
        except Exception:
            _log.exception("describe_error failed")
            data = b"The source failed."
        limit = self._runs.store.limits.error_bytes
        return data[:limit].decode(errors="ignore")

    async def _end(self, pull: asyncio.Task[None]) -> None:
        """Close the source and the writer, whatever state they are in."""
        self.is_ending = True
        for _ in range(2):  # the second time for a source that is stuck in closing
            pull.cancel()
            await asyncio.wait([pull], timeout=CLOSE_SECONDS)
        _read_failure(pull)
        try:
            await asyncio.wait_for(close_source(self._source), CLOSE_SECONDS)
        except Exception as exc:
            _log.warning("the source of stream %r did not close", self.stream_id, exc_info=exc)
        await self._writer.abort()


def _read_failure(task: asyncio.Task[Any]) -> None:
    """So that asyncio does not report it; whom it concerns has heard of it."""
    if task.done() and not task.cancelled():
        task.exception()


async def close_source(source: Any) -> None:
    """Close an asynchronous iterator, if it can be closed."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
