"""Who may produce a stream: its attribute `owner`, and how that changes hands.

The owner is a name that is new for every start, continuation and takeover.

- An owner's appends carry the version. A process that claims the stream does it by one
  compare-and-set that changes `owner`: that fences off the old owner, and of several
  claimants one wins.
- A stopped stream keeps its owner, which holds the paused source for `pause_for` seconds.
  To reopen the stream and leave `owner` as it is asks that owner to go on, in whichever
  process it is. An owner that does not answer is gone.
- An empty owner has handed its stream over: any process may claim it at once. A stream
  without the attribute has a producer that is not a run: it is followed and never claimed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

from streamstores.errors import (
    Conflict,
    OutcomeUnknown,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["OWNER", "Owners", "without_owner"]

OWNER = "owner"
"""The attribute that names who may produce."""

ANSWER_SECONDS = 2.0
"""How long the owner of a reopened stream has to go on before it is taken for gone."""


class Owners:
    """The owners of one process, and the steps by which they get their streams."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._prefix = f"{secrets.token_hex(8)}."
        self._count = 0

    def are_here(self, owner: str) -> bool:
        """Whether `owner` is, or was, one of this process."""
        return owner.startswith(self._prefix)

    async def create(
        self, stream_id: str, ttl: float | None, attributes: Mapping[str, str]
    ) -> StreamInfo:
        """Create a stream with a new owner. Raises as the store's `create` does, but settles
        an unknown outcome by a look at the owner."""
        owner = self._new_owner()
        try:
            return await self._store.create(
                stream_id, ttl=ttl, attributes={**attributes, OWNER: owner}
            )
        except OutcomeUnknown:
            info = await self._store.info(stream_id)
            if info.attributes.get(OWNER) != owner:
                raise StreamExists(f"stream {stream_id!r} exists", info) from None
            return info

    async def claim(self, info: StreamInfo) -> StreamInfo | None:
        """Become the owner of the stream as `info` describes it, streaming or stopped; None
        if it has changed meanwhile."""
        owner = self._new_owner()
        try:
            return await self._store.append(
                info.id,
                version=info.version,
                state=State.STREAMING,
                attributes={**info.attributes, OWNER: owner},
            )
        except (Conflict, StreamClosed, StreamNotFound):
            return None
        except OutcomeUnknown:
            now = await self._store.info(info.id)
            return now if now.attributes.get(OWNER) == owner else None

    async def reopen(self, info: StreamInfo) -> tuple[StreamInfo, bool]:
        """Ask the owner of a stopped stream to go on.

        Returns the stream, and whether its owner, or another process, has gone on with it.
        Waits up to `ANSWER_SECONDS` for that.
        """
        try:
            asked = await self._store.append(
                info.id, version=info.version, state=State.STREAMING
            )
        except (Conflict, StreamClosed) as exc:
            return exc.info, True
        answer = await self._answer_to(asked)
        return answer, answer.version != asked.version

    async def _answer_to(self, asked: StreamInfo) -> StreamInfo:
        """The stream as its owner changed it, or unchanged if there is no answer in time."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ANSWER_SECONDS
        answer = asked
        while answer.version == asked.version and clock() < deadline:  # a wait may end early
            timeout = max(deadline - clock(), 0)
            answer = await self._store.wait(asked.id, version=asked.version, timeout=timeout)
        return answer

    def _new_owner(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def without_owner(info: StreamInfo) -> dict[str, str]:
    """The attributes of a stream that any process may claim at once."""
    return {**info.attributes, OWNER: ""}
