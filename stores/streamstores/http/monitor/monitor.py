"""A page that shows operators which streams live in a store, and how they grow.

It shows ids, and whoever knows an id may be able to read that stream: so who may look is a
setting without a default. It never reads what a stream holds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Union

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse

from streamstores._sse import encode_event
from streamstores.errors import InvalidRequest
from streamstores.http._asgi.authorize import check_allowed
from streamstores.http._asgi.closing import Gate
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.event_stream import event_stream_headers, send_events
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.handler import Activity, StreamHandler
from streamstores.http._asgi.requests import query_of
from streamstores.http._asgi.reserved import MODEL_ATTRIBUTE, SAVED_REQUEST_PREFIX
from streamstores.limits import check_prefix
from streamstores.runs.run import close_source
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["create_monitor", "only_loopback"]

SHOWN_ATTRIBUTES = (MODEL_ATTRIBUTE,)
"""What is shown of a stream's attributes: others may hold requests, or names of people."""

_PAGE = Path(__file__).parent / "monitor.html"
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([^:]+))(?::[0-9]*)?")
_PING_SECONDS = 15.0
_RATE_SECONDS = 10.0  # between two listings; if more, their difference is no rate of now
_MAX_PREFIXES = 32
_DEFAULT_LIMIT = 100
_LISTING_FAILED = "the store's streams cannot be listed"

Authorize = Callable[[Request], Union[bool, Awaitable[bool]]]


def create_monitor(
    store: StreamStore,
    *,
    authorize: Authorize,
    handler: StreamHandler | None = None,
    interval: float = 1.0,
    max_streams: int = 1000,
    watch_signals: bool = True,
) -> StreamHandler:
    """An ASGI application, to mount: a page, `GET /streams` and `GET /events`.

    `authorize(request)`, plain or async, is asked for every request; what is not true, or
    an exception, is a 403. `only_loopback` is one to begin with. `handler` is this process's
    chat handler: with it each stream tells who follows it here, and whether it is produced
    here.

    The store is asked only while somebody looks: for one listing of at most `max_streams`
    streams, `interval` seconds after the last one has ended, whatever the number of those
    who look. Those who look at different prefixes take turns. A listing costs what the
    store's `list` does: on S3 a request for each stream, so choose a longer interval there.

    Close it as a chat handler is closed, except that it never closes the store. Raises
    `InvalidRequest` for settings that cannot be.
    """
    if not interval > 0 or max_streams < 1:
        raise InvalidRequest("interval is above 0 and max_streams at least 1")
    activity = (lambda stream_id: None) if handler is None else handler.activity
    listings = _Listings(store, interval, max_streams)
    monitor = _Monitor(store, authorize, activity, listings, max_streams)
    return StreamHandler(monitor.routes(), monitor.close, watch_signals=watch_signals)


def only_loopback(request: Request) -> bool:
    """Whether a request comes from this machine, and names it as itself.

    The name in `Host` is checked because any page in a browser here can make its own name
    lead to 127.0.0.1. Requests that tell of a proxy are refused, as is HTTP/1.0, which only
    proxies speak (nginx, unless told otherwise); but a proxy on this machine that says nothing
    cannot be told from its user, so let it refuse the monitor's path.
    """
    client = request.client
    if client is None or request.scope["http_version"] == "1.0":
        return False
    if any(name in request.headers for name in _FORWARDED):
        return False
    # Not request.url: Starlette puts the server's own address there for a Host it dislikes.
    host = _HOST.fullmatch(request.headers.get("host", ""))
    return host is not None and _is_loopback(host[1] or host[2]) and _is_loopback(client.host)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Monitor:
    """The endpoints."""

    def __init__(
        self,
        store: StreamStore,
        authorize: Authorize,
        activity: Callable[[str], Activity | None],
        listings: _Listings,
        max_streams: int,
    ) -> None:
        self._store = store
        self._authorize = authorize
        self._activity = activity
        self._listings = listings
        self._max_streams = max_streams
        self._gate = Gate()

    def routes(self) -> dict[str, dict[str, Callable[[Exchange], Awaitable[None]]]]:
        return {
            "/": {"GET": self._page},
            "/streams": {"GET": self._streams},
            "/events": {"GET": self._events},
        }

    async def close(self) -> None:
        self._gate.close()

    async def _page(self, exchange: Exchange) -> None:
        await self._check(exchange)
        await exchange.answer(FileResponse(_PAGE, headers=_PAGE_HEADERS))

    async def _streams(self, exchange: Exchange) -> None:
        """What the store holds now, or held less than `interval` ago."""
        await self._check(exchange)
        prefix, limit = self._asked(exchange)
        listing = await self._listings.newest(prefix)
        if listing.problem is not None:
            raise listing.problem
        snapshot = listing.snapshot(limit, self._activity)
        await exchange.answer(JSONResponse(snapshot, headers={"Cache-Control": "no-store"}))

    async def _events(self, exchange: Exchange) -> None:
        """The same again and again, as events `snapshot`, or `problem` where there is none."""
        await self._check(exchange)
        prefix, limit = self._asked(exchange)
        await send_events(
            exchange.receive,
            exchange.send,
            event_stream_headers(_PING_SECONDS),
            self._bodies(prefix, limit),
            ping_interval=_PING_SECONDS,
            gate=self._gate,
        )

    async def _bodies(self, prefix: str, limit: int) -> AsyncGenerator[bytes, None]:
        listing = None
        while True:
            listing = await self._listings.newest(prefix, but=listing)
            yield listing.event(limit, self._activity)

    async def _check(self, exchange: Exchange) -> None:
        await check_allowed(self._authorize, exchange)
        self._gate.check_open()

    def _asked(self, exchange: Exchange) -> tuple[str, int]:
        """Prefix and limit. Raises `HttpError`, 501 where the store offers no listing."""
        if "list" not in self._store.capabilities:
            raise HttpError(501, "no_listing", "this store does not list its streams")
        query = query_of(exchange)
        prefix = query.get("prefix", "")
        try:
            check_prefix(prefix)
        except InvalidRequest as exc:
            raise HttpError(400, "invalid_prefix", str(exc)) from exc
        return prefix, self._limit(query.get("limit"))

    def _limit(self, text: str | None) -> int:
        if text is None:
            return min(_DEFAULT_LIMIT, self._max_streams)
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_number or not 1 <= int(text) <= self._max_streams:
            message = f"limit is a number from 1 to {self._max_streams}"
            raise HttpError(400, "invalid_limit", message)
        return int(text)


class _Listings:
    """The newest listing of each prefix that somebody looks at."""

    def __init__(self, store: StreamStore, interval: float, max_streams: int) -> None:
        self._store = store
        self._interval = interval
        self._max_streams = max_streams
        self._known: OrderedDict[str, _Listing] = OrderedDict()
        self._turn = asyncio.Lock()
        self._next_at = 0.0

    async def newest(self, prefix: str, but: _Listing | None = None) -> _Listing:
        """A listing younger than `interval` other than `but`: one that is known, else a new
        one, as soon as it may be made. Whoever asks first makes it for all who wait."""
        known = self._current(prefix, but)
        if known is None:
            async with self._turn:
                known = self._current(prefix, but) or await self._renew(prefix)
        return known

    def _current(self, prefix: str, but: _Listing | None) -> _Listing | None:
        known = self._known.get(prefix)
        if known is None or known is but or _now() - known.ended_at >= self._interval:
            return None
        return known

    async def _renew(self, prefix: str) -> _Listing:
        await asyncio.sleep(self._next_at - _now())
        try:
            listing = await self._list(prefix)
        finally:
            self._next_at = _now() + self._interval
        self._known[prefix] = listing
        self._known.move_to_end(prefix)
        if len(self._known) > _MAX_PREFIXES:
            self._known.popitem(last=False)
        return listing

    async def _list(self, prefix: str) -> _Listing:
        began_at = _now()
        try:
            infos, is_complete = await _first_infos(self._store, prefix, self._max_streams)
        except Exception as exc:
            return _Listing(
                [], began_at, _now(), problem=refusal_of(exc, failed=_LISTING_FAILED)
            )
        listing = _Listing(_rows(infos), began_at, _now(), is_complete)
        before = self._known.get(prefix)
        if before and began_at - before.began_at <= max(_RATE_SECONDS, 3 * self._interval):
            listing.compare(before)
        return listing


@dataclass
class _Row:
    """What is shown of a stream, and of its growth since the listing before."""

    id: str
    state: State
    tail: int
    version: int
    error: str | None
    attributes: Mapping[str, str]
    created_at: datetime
    expires_at: datetime | None
    rate: float | None = None
    """Bytes a second; None where there is nothing to compare with."""

    def fields(self, activity: Activity | None) -> dict[str, Any]:
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
        }


@dataclass(eq=False)
class _Listing:
    """What the store held at one time: what is streaming first, then the youngest."""

    rows: list[_Row]
    began_at: float
    ended_at: float
    is_complete: bool = True
    problem: HttpError | None = None
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def compare(self, before: _Listing) -> None:
        """Learn the rates from an earlier listing."""
        seconds = self.began_at - before.began_at
        tails = {(row.id, row.created_at): row.tail for row in before.rows}
        for row in self.rows:
            tail = tails.get((row.id, row.created_at))
            if tail is not None:
                row.rate = round((row.tail - tail) / seconds, 1)

    def snapshot(
        self, limit: int, activity: Callable[[str], Activity | None]
    ) -> dict[str, Any]:
        """What is answered: the first `limit` streams, and sums over all that were listed."""
        return {
            "at": self.time.isoformat(),
            "streams": [row.fields(activity(row.id)) for row in self.rows[:limit]],
            "listed": len(self.rows),
            "complete": self.is_complete,
            "states": Counter(str(row.state) for row in self.rows),
            "rate": round(sum(row.rate or 0 for row in self.rows), 1),
        }

    def event(self, limit: int, activity: Callable[[str], Activity | None]) -> bytes:
        if self.problem is not None:
            problem = {"error": str(self.problem), "code": self.problem.code}
            return encode_event(json.dumps(problem).encode(), name=b"problem")
        snapshot = self.snapshot(limit, activity)
        return encode_event(json.dumps(snapshot).encode(), name=b"snapshot")


async def _first_infos(
    store: StreamStore, prefix: str, count: int
) -> tuple[list[StreamInfo], bool]:
    """Up to `count` streams, and whether these are all."""
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


def _rows(infos: list[StreamInfo]) -> list[_Row]:
    """The streams without those that hold requests; of their attributes what may be shown."""
    infos.sort(key=lambda info: info.created_at, reverse=True)
    infos.sort(key=lambda info: info.state is not State.STREAMING)
    return [_row(info) for info in infos if not info.id.startswith(SAVED_REQUEST_PREFIX)]


def _row(info: StreamInfo) -> _Row:
    shown = {
        name: info.attributes[name] for name in SHOWN_ATTRIBUTES if name in info.attributes
    }
    return _Row(
        id=info.id,
        state=info.state,
        tail=info.tail,
        version=info.version,
        error=info.error,
        attributes=shown,
        created_at=info.created_at,
        expires_at=info.expires_at,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
