"""The ledgers and tombstones of forks.

A fork is a copy of its source's records below the fork point, so it lives and is read like
any stream, whatever becomes of the source. Only the protocol's answer at the path of a deleted
source depends on its forks: 410 while any fork lives. For that a source has a *ledger*, a
stream of its own that lists the forks. A source that is deleted while it has living forks
leaves a *tombstone*, an empty stopped stream under its id. A crash between two steps never
touches bytes; `docs/decisions/durable-streams.md` says what each leaves.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from streamstores import logs
from streamstores.errors import Conflict, StreamExists, StreamNotFound, StreamStoreError
from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable import attributes as kept
from streamstores.http.durable.request_headers import RESERVED
from streamstores.limits import to_microseconds
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["Forks", "records_below"]

_LEDGER_TTL = 30 * 86_400.0  # of sources that expire, and so cannot delete their ledgers

_log = logging.getLogger("streamstores.http")


class Forks:
    """The ledgers and tombstones in one store."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store

    async def check_exists(self, info: StreamInfo) -> None:
        """Raise if the stream is a tombstone or an unfinished copy.

        `HttpError` 410 for a tombstone with living forks. `StreamNotFound` for a tombstone
        without, which this also removes, and for a fork that is still being copied.
        """
        if kept.is_copying(info):
            raise StreamNotFound(info.id)
        if kept.is_tombstone(info):
            if await self._has_living(info.attributes[kept.LEDGER]):
                raise HttpError(410, "gone", "the stream was deleted, and has forks")
            await self._remove_tombstone(info)
            raise StreamNotFound(info.id)

    async def enter(self, source: StreamInfo, fork_id: str) -> str:
        """Enter a fork that is about to be created in its source's ledger; returns its id.

        The order matters: an entry without a fork is harmless, but a fork without an entry
        would be forgotten when its source is deleted.
        """
        ledger = _ledger_id(source)
        entry = b"+" + fork_id.encode()
        try:
            await self._store.append(ledger, entry)
        except StreamNotFound:
            ends = source.expires_at is not None
            try:
                await self._store.create(ledger, entry, ttl=_LEDGER_TTL if ends else None)
            except StreamExists:
                await self._store.append(ledger, entry)
        return ledger

    async def delete(self, info: StreamInfo) -> None:
        """Delete a stream, and leave a tombstone if it has living forks.

        Its followers learn of the deletion at once. If the stream was the last fork of a
        tombstone, that is removed too. Four store calls, and more with forks.
        """
        ledger = _ledger_id(info)
        if not await self._has_living(ledger):
            await self._remove(info, ledger)
            return
        await self._store.delete(info.id)
        left = {
            key: info.attributes[key]
            for key in (kept.FORKED_FROM, kept.FORK_LEDGER)
            if key in info.attributes
        }
        with suppress(StreamExists):  # another client has created the id again
            await self._store.create(
                info.id,
                attributes={**left, kept.LEDGER: ledger},
                state=State.STOPPED,
                ttl=info.ttl,
                expires_at=None if info.ttl is not None else info.expires_at,
            )

    async def _remove_tombstone(self, info: StreamInfo) -> None:
        """Remove a tombstone, unless another process is doing so.

        The process that changes it first, under its version, removes it: `delete` takes no
        version, and could hit a new stream under the same id.
        """
        if kept.is_being_removed(info):
            return
        removing = {**info.attributes, kept.REMOVING: str(int(time.time()))}
        with suppress(Conflict, StreamNotFound):
            claimed = await self._store.append(
                info.id, version=info.version, state=State.STREAMING, attributes=removing
            )
            await self._remove(claimed, info.attributes[kept.LEDGER])

    async def _remove(self, info: StreamInfo, ledger: str) -> None:
        """Delete the stream and its ledger, and strike it off its source's."""
        await self._store.delete(info.id)
        with suppress(StreamNotFound):
            await self._store.delete(ledger)
        try:
            await self._release(info)
        except StreamStoreError as exc:
            # Harmless: the next request for the tombstone checks its forks again.
            _log.warning(
                "fork %s is deleted but still in its ledger: %s",
                logs.label(info.id),
                logs.reason(exc),
                extra=logs.event("durable.fork_kept", info.id),
            )

    async def _release(self, fork: StreamInfo) -> None:
        """Strike a deleted fork off its source's ledger."""
        source_id = fork.attributes.get(kept.FORKED_FROM)
        if source_id is None:
            return
        with suppress(StreamNotFound):
            await self._store.append(fork.attributes[kept.FORK_LEDGER], b"-" + fork.id.encode())
        # The check removes the source's tombstone if this was its last fork, and otherwise
        # finds that others live, or that the source does.
        with suppress(StreamNotFound, HttpError):
            await self.check_exists(await self._store.info(source_id))

    async def _has_living(self, ledger: str) -> bool:
        """Whether any fork in the ledger lives, directly or through forks of its own."""
        for fork_id in await self._entered(ledger):
            try:
                fork = await self._store.info(fork_id)
            except StreamNotFound:
                continue
            # A namesake of the fork, which has another source or none.
            if fork.attributes.get(kept.FORK_LEDGER) != ledger:
                continue
            if not kept.is_tombstone(fork) or await self._has_living(
                fork.attributes[kept.LEDGER]
            ):
                return True
        return False

    async def _entered(self, ledger: str) -> list[str]:
        """The ids of the forks that were entered and not released, the newest first."""
        entered: dict[str, None] = {}
        with suppress(StreamNotFound):
            info = await self._store.info(ledger)
            async for record in records_below(self._store, info, info.tail):
                fork_id = record.data[1:].decode()
                entered.pop(fork_id, None)
                if record.data[:1] == b"+":
                    entered[fork_id] = None
        return list(reversed(entered))


async def records_below(
    store: StreamStore, info: StreamInfo, end: int, start: int = 0
) -> AsyncIterator[Record]:
    """The records of this very stream from `start` to `end`, where the last record is cut.

    Raises `StreamNotFound` if the stream is gone, or was replaced by a namesake.
    """
    while start < end:
        page = await store.read(info.id, start)
        if page.info.created_at != info.created_at or not page.records:
            raise StreamNotFound(info.id)
        for record in page.records:
            if record.offset < end:
                yield Record(record.offset, record.data[: end - record.offset])
        start = page.next_offset


def _ledger_id(source: StreamInfo) -> str:
    """The id of a source's ledger; a namesake of the source has another."""
    identity = f"{to_microseconds(source.created_at)} {source.id}"
    return f"{RESERVED}forks/{hashlib.sha256(identity.encode()).hexdigest()[:40]}"
