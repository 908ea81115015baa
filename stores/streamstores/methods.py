"""Methods of the contract that are the same on every store."""

from __future__ import annotations

from typing import Protocol

from streamstores import limits as bounds
from streamstores.changes import Changes
from streamstores.limits import Limits
from streamstores.mutations import check_end_state
from streamstores.values import State, StateLike, StreamInfo

__all__ = ["CommonMethods"]


class _Appends(Protocol):
    """What `mark_done` needs of a store."""

    async def append(
        self,
        stream_id: str,
        *,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
    ) -> StreamInfo: ...


class _Watched(Protocol):
    """What `wait` needs of a store."""

    limits: Limits
    changes: Changes

    async def info(self, stream_id: str) -> StreamInfo: ...


class CommonMethods:
    """`mark_done` and `wait`, made of the store's own `append`, `info` and `changes`.

        class MyStore(CommonMethods):
            ...

    A class to derive from, and not two functions to assign, because type checkers infer the
    type of a function that is assigned in a class differently. It keeps no state.
    """

    async def mark_done(
        self: _Appends,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        """`StreamStore.mark_done`: an `append` of a state other than streaming."""
        return await self.append(
            stream_id, state=check_end_state(state), error=error, version=version
        )

    async def wait(
        self: _Watched, stream_id: str, *, version: int, timeout: float
    ) -> StreamInfo:
        """`StreamStore.wait`: `info` at once, and again after each notice in `changes`.

        Costs an `info` at first, after each notice, and after each `poll_interval` without a
        notice.
        """
        bounds.check_stream_id(stream_id, self.limits)
        bounds.check_seconds(timeout, "timeout")
        version = bounds.check_version(version)
        if timeout == 0:
            return await self.info(stream_id)  # without a subscription
        return await self.changes.wait(
            self.info,
            stream_id,
            version=version,
            timeout=timeout,
            poll_interval=self.limits.poll_interval,
        )
