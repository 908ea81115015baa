"""Forks: copies, and what is remembered of them.

A fork is a copy of its source's records below the fork point, so it lives and is read like
any stream, whatever becomes of the source. Only the protocol's answers at the path of a
deleted source depend on its forks: 410 while one lives. For those a source has a *ledger*, a
stream beside it in which its forks are entered, and a source that is deleted while one lives
leaves a *tombstone*, an empty stopped stream under its id. Every crash between two steps leaves
bytes alone; see `docs/decisions/durable-streams.md`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from streamstores.errors import Conflict, StreamExists, StreamNotFound, StreamStoreError
from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable import attributes as kept
from streamstores.http.durable.request_headers import RESERVED
from streamstores.limits import to_microseconds
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["Forks", "records_below"]

_LEDGER_TTL = 30 * 86_400.0  # of a source that ends by itself, and so leaves its ledger behind

_log = logging.getLogger("streamstores.http")


class Forks:
    """The ledgers and tombstones in one store."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store

    async def check_exists(self, info: StreamInfo) -> None:
        """Raise `HttpError` 410 for a tombstone whose forks live, and `StreamNotFound` for one
        that has outlived them, which this removes, and for a fork that is being copied."""
        if kept.is_copying(info):
            raise StreamNotFound(info.id)
        if kept.is_tombstone(info):
            if await self._has_living(info.attributes[kept.LEDGER]):
                raise HttpError(410, "gone", "the stream was deleted, and has forks")
            await self._remove_tombstone(info)
            raise StreamNotFound(info.id)

    async def enter(self, source: StreamInfo, fork_id: str) -> str:
        """Enter a fork that is about to be made into its source's ledger; the ledger's id.

        Before, because an entry without a fork harms nobody.
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
        """Delete a stream. While it has living forks a tombstone takes its place.

        Its followers learn of it at once. Then its own source, where that is a tombstone with
        no other fork, goes too.
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
        with suppress(StreamExists):  # somebody was quicker to begin the id anew
            await self._store.create(
                info.id,
                attributes={**left, kept.LEDGER: ledger},
                state=State.STOPPED,
                ttl=info.ttl,
                expires_at=None if info.ttl is not None else info.expires_at,
            )

    async def _remove_tombstone(self, info: StreamInfo) -> None:
        """Remove it where nobody else does. Whoever changes it first may: a `delete` knows no
        version, and could hit a stream that has begun under the id meanwhile."""
        if kept.is_being_removed(info):
            return
        removing = {**info.attributes, kept.REMOVING: str(int(time.time()))}
        with suppress(Conflict, StreamNotFound):
            claimed = await self._store.append(
                info.id, version=info.version, state=State.STREAMING, attributes=removing
            )
            await self._remove(claimed, info.attributes[kept.LEDGER])

    async def _remove(self, info: StreamInfo, ledger: str) -> None:
        await self._store.delete(info.id)
        with suppress(StreamNotFound):
            await self._store.delete(ledger)
        try:
            await self._release(info)
        except StreamStoreError as exc:
            # The tombstone finds out when somebody asks for it.
            _log.warning("fork %r is deleted, its source was not told: %s", info.id, exc)

    async def _release(self, fork: StreamInfo) -> None:
        """Tell the ledger of a fork's source that it is gone."""
        source_id = fork.attributes.get(kept.FORKED_FROM)
        if source_id is None:
            return
        with suppress(StreamNotFound):
            await self._store.append(fork.attributes[kept.FORK_LEDGER], b"-" + fork.id.encode())
        with suppress(StreamNotFound, HttpError):
            await self.check_exists(await self._store.info(source_id))

    async def _has_living(self, ledger: str) -> bool:
        """Whether a fork lives, or a fork of one."""
        for fork_id in await self._entered(ledger):
            try:
                fork = await self._store.info(fork_id)
            except StreamNotFound:
                continue
            if fork.attributes.get(kept.FORK_LEDGER) != ledger:
                continue
            if not kept.is_tombstone(fork) or await self._has_living(
                fork.attributes[kept.LEDGER]
            ):
                return True
        return False

    async def _entered(self, ledger: str) -> list[str]:
        """The forks that were entered and not released, the newest first."""
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
    """The records of this very stream from `start` to `end`, the last one cut there.

    Raises `StreamNotFound` when it has gone or a namesake has come.
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
    """Of this very source: a namesake has another."""
    identity = f"{to_microseconds(source.created_at)} {source.id}"
    return f"{RESERVED}forks/{hashlib.sha256(identity.encode()).hexdigest()[:40]}"
