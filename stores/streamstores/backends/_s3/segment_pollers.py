"""Noticing what other processes append: one poller for each stream that is followed."""

from __future__ import annotations

import asyncio
import time

from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams
from streamstores.errors import StreamNotFound, StreamStoreError

_GROWTH = 1.5
_BEHIND_SECONDS = 1.0


class SegmentPollers:
    """Ask for the next segment every `shortest` seconds while a stream grows, and less and
    less often, down to every `longest` seconds, while it does not.

    Each look is one GET, at most 1 / `shortest` a second for a stream, whatever the number
    of its subscribers, unless the stream grows faster than that; then as often as it grows.
    There is none shortly after a commit of this process, whose own subscribers have heard of
    it, and none once the stream has finished.
    """

    def __init__(self, streams: KnownStreams, shortest: float, longest: float) -> None:
        self._streams = streams
        self._changes = streams.changes
        self._shortest = shortest
        self._longest = longest
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._committed_at: dict[str, float] = {}
        self._is_closed = False
        self._stopping: set[asyncio.Task[None]] = set()

    def set_interest(self, stream_id: str, is_watched: bool) -> None:
        """Start the poller of a stream with its first subscriber, stop it with the last."""
        if is_watched and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._tasks[stream_id] = loop.create_task(self._poll_until_cancelled(stream_id))
        elif stream_id in self._tasks:
            self._committed_at.pop(stream_id, None)
            self._stop(self._tasks.pop(stream_id))

    def committed(self, stream_id: str) -> None:
        """This process itself changed the stream."""
        if stream_id in self._tasks:
            self._committed_at[stream_id] = time.monotonic()

    async def aclose(self) -> None:
        self._is_closed = True
        for task in self._tasks.values():
            self._stop(task)
        self._tasks.clear()
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _stop(self, task: asyncio.Task[None]) -> None:
        if not task.get_loop().is_closed():  # the last subscriber may go with its loop
            task.cancel()
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def _poll_until_cancelled(self, stream_id: str) -> None:
        """Look for news of a stream; errors are left to the followers' own reads."""
        pause = self._shortest
        seen: KnownStream | None = None
        while True:
            await asyncio.sleep(pause)
            if self._was_committed_here(stream_id):
                pause = self._shortest
                continue
            try:
                known, block = await self._poll(stream_id, seen)
            except StreamNotFound:
                self._changes.noticed(stream_id)
                known, block = None, None
            except StreamStoreError:
                known, block = seen, None
            seen = known
            pause = self._next_pause(pause, block)

    def _was_committed_here(self, stream_id: str) -> bool:
        committed_at = self._committed_at.get(stream_id)
        # Twice the pause and no longer: a Stop from another process must not have to wait
        # for the next heartbeat of this one.
        return committed_at is not None and time.monotonic() - committed_at < 2 * self._shortest

    async def _poll(
        self, stream_id: str, seen: KnownStream | None
    ) -> tuple[KnownStream | None, Block | None]:
        """The stream now, and its new segment if any. Subscribers have been told of
        a change. Raises `StreamNotFound`."""
        known = self._streams.known(stream_id)
        if known is not None and self._streams.has_expired(known):
            return await self._streams.living(stream_id), None
        if known is not None and not known.is_final:
            return await self._streams.peek(known)
        if known is None:
            known = await self._streams.living(stream_id)
        if seen is not None and _differs(seen, known):
            # It was forgotten here in between, so `remember` saw no difference.
            self._changes.noticed(stream_id)
        return known, None

    def _next_pause(self, pause: float, block: Block | None) -> float:
        if block is None:
            return min(pause * _GROWTH, self._longest)
        now = self._streams.storage.clock.seconds()
        return 0.0 if now - block.written_at > _BEHIND_SECONDS else self._shortest


def _differs(known: KnownStream, other: KnownStream) -> bool:
    return known.generation != other.generation or known.info.version != other.info.version
