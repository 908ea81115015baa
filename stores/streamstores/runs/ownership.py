"""The attribute `owner`, which names the producer of a stream, and how it changes hands.

The owner is a name that is new for every start, continuation and takeover.

- An owner's appends carry the version. A process that claims the stream does it by one
  compare-and-set that changes `owner`: that fences off the old owner, and of several
  claimants one wins.
- A stopped stream keeps its owner, which holds the paused source for `pause_for` seconds.
  To reopen the stream and leave `owner` as it is asks that owner to go on, in whichever
  process it is. An owner that does not answer is gone.
- A takeover from a producer that died is counted in the attribute `takeovers`, because its
  source may be what ended its process.
- An empty owner has handed its stream over: any process may claim it at once. A stream
  without the attribute has a producer that is not a run: it is followed and never claimed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress

from streamstores._writer.append_chain import AppendChain, Ending
from streamstores._writer.attempts import Attempts
from streamstores.errors import (
    Conflict,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["OWNER", "TAKEOVERS", "Owners", "takeovers_of", "without_owner"]

OWNER = "owner"
"""The attribute that names the producer."""

OWNER_BYTES = 128
"""More than the attributes of this module take, with their names."""

TAKEOVERS = "takeovers"
"""The attribute that counts the takeovers from producers that died; absent before the first."""

ANSWER_SECONDS = 2.0
"""How long the owner of a reopened stream has to go on before it is taken for gone."""

SETTLE_SECONDS = 3.0
"""How long a creation or a claim is repeated after an unknown outcome. A client of a handler
waits for it, and its own retry settles the outcome as well."""


class Owners:
    """The owners of one process, and the steps by which they get their streams."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        # Random, not the pid: a restarted process or another host may have the same pid, and
        # would take the streams of a dead producer for its own.
        self._prefix = f"{secrets.token_hex(8)}."
        self._count = 0

    def are_here(self, owner: str) -> bool:
        """Whether `owner` is, or was, one of this process."""
        return owner.startswith(self._prefix)

    async def create(
        self, stream_id: str, ttl: float | None, attributes: Mapping[str, str]
    ) -> StreamInfo:
        """Create a stream with a new owner. Raises as the store's `create` does.

        An unknown outcome is settled by repetition: only one `create` under an id can succeed,
        and the owner tells whose it was.
        """
        owner = self._new_owner()
        attributes = {**attributes, OWNER: owner}
        attempts = Attempts(SETTLE_SECONDS)
        doubt: OutcomeUnknown | None = None
        while True:
            try:
                return await self._store.create(stream_id, ttl=ttl, attributes=attributes)
            except StreamExists as exc:
                if doubt is None or exc.info.attributes.get(OWNER) != owner:
                    raise
                return await self._confirmed(exc.info)
            except StoreUnavailable:
                # If no attempt is in doubt, nothing has happened, and the caller may decide.
                # Otherwise an earlier attempt may still arrive and leave a stream that nothing
                # produces.
                if doubt is None:
                    raise
                await attempts.pause(doubt)
            except OutcomeUnknown as exc:
                doubt = exc
                await attempts.pause(exc)

    async def _confirmed(self, info: StreamInfo) -> StreamInfo:
        """The stream, once the store has acknowledged that it exists."""
        chain = AppendChain(self._store, info.id, info, SETTLE_SECONDS)
        with suppress(Conflict, StreamClosed):  # another process has changed it already
            await chain.confirm()
        assert chain.info is not None
        return chain.info

    async def claim(
        self, info: StreamInfo, *, takeovers: int | None = None
    ) -> StreamInfo | None:
        """Become the owner of the stream as `info` describes it, streaming or stopped.

        Returns None if the stream has changed meanwhile. `takeovers` is the new count, if it
        changes. The claim is repeated until its outcome is known, for `SETTLE_SECONDS`.
        """
        attributes = {**info.attributes, OWNER: self._new_owner()}
        if takeovers is not None:
            attributes[TAKEOVERS] = str(takeovers)
        chain = AppendChain(self._store, info.id, info, SETTLE_SECONDS)
        try:
            await chain.append((), Ending(State.STREAMING, attributes=attributes))
        except (Conflict, StreamClosed, StreamNotFound):
            return None
        return chain.info

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


def takeovers_of(info: StreamInfo) -> int:
    """How often the stream was taken over from a producer that died."""
    count = info.attributes.get(TAKEOVERS, "")
    # Any client of the store can write attributes. A value that is no number must not make
    # every rescue of the stream fail.
    return int(count) if count.isdecimal() else 0
