"""`RunFollower`: a reader's place in a stream, whichever process produces it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from streamstores.errors import ProducerLost
from streamstores.follow import Follower, follow
from streamstores.runs.ownership import OWNER
from streamstores.store import Record, StreamInfo, StreamStore

__all__ = ["RunFollower"]

HEARTBEATS_OF_PATIENCE = 3
"""A producer that shows no sign of life for so many heartbeats is taken for dead."""


class RunFollower:
    """One reader's place in a stream, whichever process produces it and however often that
    changes.

    `rescue(info)` is called when the producer is lost, with the stream as last seen.
    """

    def __init__(
        self,
        store: StreamStore,
        info: StreamInfo,
        offset: int,
        *,
        heartbeat: float,
        rescue: Callable[[StreamInfo], Awaitable[None]],
    ) -> None:
        self._store = store
        self._first_info = info
        self._heartbeat = heartbeat
        self._rescue = rescue
        self._rescued: int | None = None  # the version at which a rescue was tried
        # A stream that is to be taken over is not as it was seen.
        seen = None if self._is_handed_over(info) else info
        self._follower = self._follow(offset, seen)

    def __repr__(self) -> str:
        where = f"{self._first_info.id!r} on {self._store!r} at {self._follower.offset}"
        return f"<RunFollower of {where}>"

    @property
    def info(self) -> StreamInfo:
        """The stream as last seen; after the last batch, how it ended."""
        return self._follower.info or self._first_info

    async def batch(self) -> list[Record]:
        """The next records, as `Follower.batch` gives them; empty at the end.

        A producer that dies or hands its stream over is replaced, or the stream stopped,
        instead of `ProducerLost`.
        """
        while True:
            try:
                return await self._follower.batch()
            except ProducerLost as lost:
                self._rescued = lost.info.version
                await self._rescue(lost.info)
            # A follower that has raised stays ended. Its offset is that of the last record it
            # gave out, so the next follower neither skips nor repeats any.
            self._follower = self._follow(self._follower.offset)

    async def aclose(self) -> None:
        """Stop following. Idempotent."""
        await self._follower.aclose()

    def _follow(self, offset: int, seen: StreamInfo | None = None) -> Follower:
        # A producer that is no run has promised no heartbeats, so its silence means nothing.
        is_ours = OWNER in self._first_info.attributes
        return follow(
            self._store,
            self._first_info.id,
            offset,
            info=seen,
            producer_timeout=HEARTBEATS_OF_PATIENCE * self._heartbeat if is_ours else None,
            is_lost=self._is_handed_over,
        )

    def _is_handed_over(self, info: StreamInfo) -> bool:
        """Whether to rescue the stream at once. Once a version: if this process has no room
        for it, the follower waits as it does for a producer that has died."""
        return info.attributes.get(OWNER) == "" and info.version != self._rescued
