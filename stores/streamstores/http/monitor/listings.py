"""Listings of a store, shared by the clients of a monitor."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from streamstores._sse import encode_event
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.handler import Activity
from streamstores.http._asgi.reserved import MODEL_ATTRIBUTE, SAVED_REQUEST_PREFIX
from streamstores.runs import OWNER, close_source
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["ListingCache", "StoreListing"]

SHOWN_ATTRIBUTES = (MODEL_ATTRIBUTE,)
"""The attributes that are shown. Others may hold requests, or names of people."""

_RATE_SECONDS = 10.0  # the longest time between two listings whose difference is a current rate
_MAX_PREFIXES = 32
_LISTING_FAILED = "the store's streams cannot be listed"


class ListingCache:
    """The newest listing of each prefix that clients look at."""

    def __init__(
        self, store: StreamStore, interval: float, max_streams: int, stale_after: float
    ) -> None:
        self._store = store
        self._stale_after = stale_after
        self._interval = interval
        self._max_streams = max_streams
        self._known: OrderedDict[str, StoreListing] = OrderedDict()
        self._turn = asyncio.Lock()
        self._next_at = 0.0

    async def newest(self, prefix: str, but: StoreListing | None = None) -> StoreListing:
        """A listing younger than `interval` that is not `but`.

        If none is known, the first caller makes a new listing as soon as the interval allows,
        and all waiting callers share it.
        """
        known = self._current(prefix, but)
        if known is None:
            async with self._turn:
                known = self._current(prefix, but) or await self._renew(prefix)
        return known

    def _current(self, prefix: str, but: StoreListing | None) -> StoreListing | None:
        known = self._known.get(prefix)
        if known is None or known is but or _now() - known.ended_at >= self._interval:
            return None
        return known

    async def _renew(self, prefix: str) -> StoreListing:
        """Make a new listing, at most one per interval over all prefixes."""
        await asyncio.sleep(self._next_at - _now())
        try:
            listing = await self._list(prefix)
        finally:
            # From the end of a listing, or a store that takes longer than the interval for it
            # would be listed without a pause.
            self._next_at = _now() + self._interval
        self._known[prefix] = listing
        self._known.move_to_end(prefix)
        if len(self._known) > _MAX_PREFIXES:
            self._known.popitem(last=False)
        return listing

    async def _list(self, prefix: str) -> StoreListing:
        """List the store now. An error becomes the listing's `problem`."""
        began_at = _now()
        try:
            infos, is_complete = await _first_infos(self._store, prefix, self._max_streams)
        except Exception as exc:
            return StoreListing(
                [], began_at, _now(), problem=refusal_of(exc, failed=_LISTING_FAILED)
            )
        rows = _rows(infos, self._stale_after)
        listing = StoreListing(rows, began_at, _now(), is_complete)
        before = self._known.get(prefix)
        if before and began_at - before.began_at <= max(_RATE_SECONDS, 3 * self._interval):
            listing.compare(before)
        return listing


@dataclass
class _StreamRow:
    """The shown fields of a stream, and its growth since the previous listing."""

    id: str
    state: State
    tail: int
    version: int
    error: str | None
    attributes: Mapping[str, str]
    created_at: datetime
    expires_at: datetime | None
    silent_seconds: float
    """How long the stream has not changed: as earlier listings have seen it, and by the clocks
    of the backend and of this machine if none has."""
    stale_after: float
    """Seconds of silence after which its producer counts as dead; infinity if there is none, or
    none that promised heartbeats."""
    rate: float | None = None
    """In bytes per second; None if no earlier listing has the stream."""

    @property
    def is_stale(self) -> bool:
        return self.silent_seconds >= self.stale_after

    def compare(self, before: _StreamRow, seconds: float) -> None:
        """Take from an earlier row of the same stream what a single look cannot tell."""
        self.rate = round((self.tail - before.tail) / seconds, 1)
        has_changed = self.version != before.version
        self.silent_seconds = 0.0 if has_changed else before.silent_seconds + seconds

    def fields(self, activity: Activity | None) -> dict[str, Any]:
        """The row as JSON for clients."""
        return {
            "id": self.id,
            "state": str(self.state),
            "tail": self.tail,
            "rate": self.rate,
            "version": self.version,
            "error": self.error,
            "attributes": self.attributes,
            "createdAt": self.created_at.isoformat(),
            "expiresAt": self.expires_at and self.expires_at.isoformat(),
            "followers": activity and activity.followers,
            "producedHere": activity and activity.is_produced,
            "silentSeconds": round(self.silent_seconds, 1),
            "stale": self.is_stale,
        }


@dataclass(eq=False)
class StoreListing:
    """The streams of a store at one time: streaming ones first, and the newest first."""

    rows: list[_StreamRow]
    began_at: float
    ended_at: float
    is_complete: bool = True
    problem: HttpError | None = None
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def compare(self, before: StoreListing) -> None:
        """Compute the rates by comparison with an earlier listing."""
        seconds = self.began_at - before.began_at
        # With the time of creation, because a namesake has not grown from where the stream
        # before it ended.
        known = {(row.id, row.created_at): row for row in before.rows}
        for row in self.rows:
            earlier = known.get((row.id, row.created_at))
            if earlier is not None:
                row.compare(earlier, seconds)

    def snapshot(
        self, limit: int, activity: Callable[[str], Activity | None], *, has_actions: bool
    ) -> dict[str, Any]:
        """JSON for clients: the first `limit` streams, and sums over all streams listed."""
        found = [activity(row.id) for row in self.rows]
        known = [each for each in found if each is not None]
        return {
            "at": self.time.isoformat(),
            "actions": has_actions,
            "streams": [
                row.fields(each)
                for row, each in zip(self.rows[:limit], found[:limit], strict=True)
            ],
            "listed": len(self.rows),
            "complete": self.is_complete,
            "states": Counter(str(row.state) for row in self.rows),
            "stale": sum(row.is_stale for row in self.rows),
            "followers": sum(each.followers for each in known) if known else None,
            "rate": round(sum(row.rate or 0 for row in self.rows), 1),
        }

    def event(
        self, limit: int, activity: Callable[[str], Activity | None], *, has_actions: bool
    ) -> bytes:
        if self.problem is not None:
            problem = {"error": str(self.problem), "code": self.problem.code}
            return encode_event(json.dumps(problem).encode(), name=b"problem")
        snapshot = self.snapshot(limit, activity, has_actions=has_actions)
        return encode_event(json.dumps(snapshot).encode(), name=b"snapshot")


async def _first_infos(
    store: StreamStore, prefix: str, count: int
) -> tuple[list[StreamInfo], bool]:
    """Up to `count` streams, and whether these are all of them."""
    infos: list[StreamInfo] = []
    listing = store.list(prefix)
    try:
        async for info in listing:
            if len(infos) == count:
                return infos, False
            infos.append(info)
    finally:
        await close_source(listing)
    return infos, True


def _rows(infos: list[StreamInfo], stale_after: float) -> list[_StreamRow]:
    """The rows in the order of the page, without the streams that hold requests."""
    infos.sort(key=lambda info: info.created_at, reverse=True)
    infos.sort(key=lambda info: info.state is not State.STREAMING)
    return [
        _row(info, stale_after)
        for info in infos
        if not info.id.startswith(SAVED_REQUEST_PREFIX)
    ]


def _row(info: StreamInfo, stale_after: float) -> _StreamRow:
    """A row with the attributes that may be shown."""
    silent_seconds = (datetime.now(timezone.utc) - info.updated_at).total_seconds()
    has_heartbeats = info.state is State.STREAMING and OWNER in info.attributes
    shown = {
        name: info.attributes[name] for name in SHOWN_ATTRIBUTES if name in info.attributes
    }
    return _StreamRow(
        id=info.id,
        state=info.state,
        tail=info.tail,
        version=info.version,
        error=info.error,
        attributes=shown,
        created_at=info.created_at,
        expires_at=info.expires_at,
        silent_seconds=max(silent_seconds, 0.0),
        stale_after=stale_after if has_heartbeats else math.inf,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
