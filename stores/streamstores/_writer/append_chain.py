"""The appends of one producer, each under the version of the one before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from streamstores._writer.attempts import Attempts
from streamstores.errors import Conflict, OutcomeUnknown, StoreUnavailable, StreamClosed
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["NO_CHANGE", "AppendChain", "Ending"]

T = TypeVar("T")


class Ending(NamedTuple):
    """What the last append of a producer does besides adding the last records."""

    state: State | None = None
    error: str | None = None
    attributes: Mapping[str, str] | None = None


NO_CHANGE = Ending()


class AppendChain:
    """Appends to one stream, one after the other, and none of them twice.

    Every append carries the version that the one before returned. So only one of several
    attempts at the same append can be applied, and any other producer's change breaks the
    chain with `Conflict`.

    With `is_fenced=False` the appends carry no version, so that other producers may append in
    between. Then an append whose outcome is unknown is not repeated.
    """

    def __init__(
        self,
        store: StreamStore,
        stream_id: str,
        info: StreamInfo | None,
        retry_for: float,
        *,
        is_fenced: bool = True,
    ) -> None:
        self.info = info
        """The stream after the last append that the store acknowledged; None before `begin`."""
        self._store = store
        self._stream_id = stream_id
        self._retry_for = retry_for
        self._is_fenced = is_fenced

    async def begin(self) -> None:
        """Ask the store for the stream if its version is needed and not known."""
        if self.info is None and self._is_fenced:
            self.info = await self._patiently(partial(self._store.info, self._stream_id))

    async def append(self, batch: tuple[bytes, ...], ending: Ending) -> None:
        """Append, and return when the store has acknowledged it under its own durability.

        With nothing to append it is a heartbeat. Raises the store's errors: those that a
        retry can mend after `retry_for` seconds.
        """
        if not self._is_fenced:
            self.info = await self._apply_unfenced(batch, ending)
            return
        assert self.info is not None, "begin() comes first"
        attempts = Attempts(self._retry_for)
        info, is_confirmed = await self._apply(self.info, batch, ending, attempts)
        if not is_confirmed and (batch or ending != NO_CHANGE):
            info = await self._confirm(info, attempts)
        self.info = info

    async def confirm(self) -> None:
        """Return when the store has acknowledged everything that is in the stream.

        Landed is not durable: a failover may lose what no replica has confirmed. A mutation
        that is acknowledged, even if it changes nothing, confirms all before it.
        """
        assert self.info is not None, "begin() comes first"
        self.info = await self._confirm(self.info, Attempts(self._retry_for))

    async def _confirm(self, info: StreamInfo, attempts: Attempts) -> StreamInfo:
        is_confirmed = False
        while not is_confirmed:
            # A closed stream refuses an append without a state, and accepts the state that it
            # has: for each of the two this is the mutation that changes nothing.
            state = None if info.state is State.STREAMING else info.state
            info, is_confirmed = await self._apply(info, (), Ending(state), attempts)
        return info

    async def _apply(
        self,
        before: StreamInfo,
        batch: tuple[bytes, ...],
        ending: Ending,
        attempts: Attempts,
    ) -> tuple[StreamInfo, bool]:
        """Append until it was certainly applied, once, to the stream as it was `before`.

        Returns the stream after it, and whether the store has acknowledged it; if not, it was
        found in the stream after an unknown outcome.
        """
        doubt: OutcomeUnknown | None = None
        while True:
            try:
                info = await self._store.append(
                    self._stream_id,
                    *batch,
                    version=before.version,
                    state=ending.state,
                    error=ending.error,
                    attributes=ending.attributes,
                )
                return info, True
            except StoreUnavailable as exc:
                await attempts.pause(doubt or exc)  # an earlier attempt may have been applied
            except OutcomeUnknown as exc:
                doubt = exc
                await attempts.pause(exc)
            except (Conflict, StreamClosed) as exc:
                # Only an attempt of unknown outcome can have made the change on behalf of this
                # producer.
                if doubt and await self._has_landed(before, exc.info, batch, ending):
                    return exc.info, False
                raise

    async def _apply_unfenced(self, batch: tuple[bytes, ...], ending: Ending) -> StreamInfo:
        """Append until it was applied, or may have been."""
        attempts = Attempts(self._retry_for)
        while True:
            try:
                return await self._store.append(
                    self._stream_id,
                    *batch,
                    state=ending.state,
                    error=ending.error,
                    attributes=ending.attributes,
                )
            except StoreUnavailable as exc:
                await attempts.pause(exc)
            except OutcomeUnknown as exc:
                if batch or ending != NO_CHANGE:
                    raise  # nothing tells its bytes from those of another producer
                await attempts.pause(exc)

    async def _has_landed(
        self, before: StreamInfo, now: StreamInfo, batch: tuple[bytes, ...], ending: Ending
    ) -> bool:
        """Whether the change from `before` to `now` is exactly the append in doubt.

        A takeover that only grew the version would look like this producer's own heartbeat,
        which is why a takeover changes the attributes (see `streamstores.runs.ownership`).
        """
        data = b"".join(batch)
        attributes = before.attributes if ending.attributes is None else ending.attributes
        return (
            now.version == before.version + 1
            and now.created_at == before.created_at
            and now.tail == before.tail + len(data)
            and now.state is (ending.state or before.state)
            and dict(now.attributes) == dict(attributes)
            # Last, because it costs a read: the same length may be another producer's text.
            and await self._read_back(before.tail, len(data)) == data
        )

    async def _read_back(self, offset: int, size: int) -> bytes:
        read = b""
        while len(read) < size:
            read_next = partial(self._store.read, self._stream_id, offset + len(read))
            page = await self._patiently(read_next)
            # The stream is shorter than it was: a namesake has taken the place of a deleted
            # stream.
            if not page.records:
                break
            read += b"".join(record.data for record in page.records)
        # The last page goes on with what was appended since.
        return read[:size]

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, which may be repeated freely.

        A store should not raise `OutcomeUnknown` for a question; here it does no harm.
        """
        attempts = Attempts(self._retry_for)
        while True:
            try:
                return await call()
            except (StoreUnavailable, OutcomeUnknown) as exc:
                await attempts.pause(exc)
