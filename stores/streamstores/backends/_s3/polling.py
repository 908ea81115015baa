"""Noticing what other processes append: one poller for each stream that is watched."""

from __future__ import annotations

import asyncio
import time

from streamstores.backends._s3.blocks import Block
from streamstores.backends._s3.streams import Known, Streams
from streamstores.changes import Changes
from streamstores.errors import StreamNotFound, StreamStoreError

_GROWTH = 1.5
_BEHIND_SECONDS = 1.0


class Pollers:
    """Asks for the next segment every `shortest` seconds while a stream grows, and less and
    less often, down to every `longest`, while it does not.

    One GET each, at most 1 / `shortest` a second for a stream, whatever the number of its
    watchers; only where that is slower than the stream grows, as often as it grows. None
    for `longest` seconds after a commit of this process, whose own watchers have heard of
    it, and none once the stream has finished.
    """

    def __init__(
        self, streams: Streams, changes: Changes, shortest: float, longest: float
    ) -> None:
        self._streams = streams
        self.changes = changes
        self._shortest = shortest
        self._longest = longest
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._committed_at: dict[str, float] = {}
        self._is_closed = False
        self._ending: set[asyncio.Task[None]] = set()

    def watched(self, stream_id: str, is_watched: bool) -> None:
        if is_watched and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._tasks[stream_id] = loop.create_task(self._run(stream_id))
        elif stream_id in self._tasks:
            self._committed_at.pop(stream_id, None)
            self._end(self._tasks.pop(stream_id))

    def committed(self, stream_id: str) -> None:
        """This process itself changed the stream."""
        if stream_id in self._tasks:
            self._committed_at[stream_id] = time.monotonic()

    async def aclose(self) -> None:
        self._is_closed = True
        for task in self._tasks.values():
            self._end(task)
        self._tasks.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.get_loop().is_closed():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self, stream_id: str) -> None:
        pause = self._shortest
        seen: Known | None = None
        while True:
            await asyncio.sleep(pause)
            if self._is_ours(stream_id):
                pause = self._shortest
                continue
            try:
                known, block = await self._poll(stream_id, seen)
            except StreamNotFound:
                self.changes.noticed(stream_id)
                known, block = None, None
            except StreamStoreError:
                known, block = seen, None
            seen = known
            pause = self._next_pause(pause, block)

    def _is_ours(self, stream_id: str) -> bool:
        committed_at = self._committed_at.get(stream_id)
        # Not longer: a Stop from elsewhere must not wait for this process's next heartbeat.
        return committed_at is not None and time.monotonic() - committed_at < 2 * self._shortest

    async def _poll(
        self, stream_id: str, seen: Known | None
    ) -> tuple[Known | None, Block | None]:
        """The stream now, and its new segment if there is one; the watchers have heard of a
        change. Raises `StreamNotFound`."""
        known = self._streams.known(stream_id)
        if known is not None and self._streams.has_ended(known):
            return await self._streams.living(stream_id), None
        if known is not None and not known.is_final:
            return await self._streams.peek(known)
        if known is None:
            known = await self._streams.living(stream_id)
        if seen is not None and _differs(seen, known):
            self.changes.noticed(stream_id)  # nobody else noticed: it was forgotten here
        return known, None

    def _next_pause(self, pause: float, block: Block | None) -> float:
        if block is None:
            return min(pause * _GROWTH, self._longest)
        is_behind = self._streams.seconds() - block.written_at > _BEHIND_SECONDS
        return 0.0 if is_behind else self._shortest


def _differs(one: Known, other: Known) -> bool:
    return one.generation != other.generation or one.info.version != other.info.version
