"""`create_monitor`: a page that shows operators the streams of a store, and changes them.

The page shows ids, and an id may be all that it takes to read a stream. So `authorize` has no
default. The monitor never reads the contents of a stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Union
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse

from streamstores.errors import InvalidRequest
from streamstores.http._asgi.authorize import check_allowed
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.event_stream import (
    EventStream,
    event_stream,
    event_stream_headers,
)
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.handler import Activity, StreamHandler
from streamstores.http._asgi.requests import query_of
from streamstores.http.monitor.actions import AuthorizeAction, StreamActions
from streamstores.http.monitor.listings import ListingCache
from streamstores.limits import check_prefix
from streamstores.runs.follower import HEARTBEATS_OF_PATIENCE
from streamstores.store import StreamStore

__all__ = ["create_monitor"]

_FILES = Path(__file__).parent
_MEDIA_TYPES = {"monitor.css": "text/css", "monitor.js": "text/javascript"}
# The page loads its own style and script and nothing else, and no other site may frame it: it
# shows ids, and an id may be all that it takes to read a stream.
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PING_SECONDS = 15.0
_DEFAULT_LIMIT = 100

Authorize = Callable[[Request], Union[bool, Awaitable[bool]]]


def create_monitor(
    store: StreamStore,
    *,
    authorize: Authorize,
    authorize_action: AuthorizeAction | None = None,
    handler: StreamHandler | None = None,
    heartbeat: float = 5.0,
    interval: float = 1.0,
    max_streams: int = 1000,
    send_timeout: float = 60.0,
    watch_signals: bool = True,
) -> StreamHandler:
    """An ASGI application, to mount: a page, `GET /streams`, `GET /events` and `POST /actions`.

    `authorize(request)`, plain or async, is asked for every request. Only `True` allows.
    `only_loopback` is a simple choice.

    The page only shows, unless `authorize_action(request, stream_id, action)`, plain or async,
    is given: then it has buttons with which an operator can change a stream, after a
    confirmation. The action is `stop`, `expire` or `delete`. It is asked for each action,
    after `authorize`, and only `True` allows. Pages of other origins cannot act, because each
    action needs a header that a browser sends for the page's own script alone.

    `heartbeat` is that of the processes that produce: a stream whose producer promised
    heartbeats and that has not changed for three of them is shown as stale. `handler` is the
    chat handler of this process: with it the monitor shows how many clients follow each stream
    here, and whether it is produced here.

    The store is asked only while clients look: for one listing of at most `max_streams`
    streams, `interval` seconds after the previous listing has ended, however many clients
    there are. Clients that look at different prefixes take turns. A listing costs what the
    store's `list` costs, which on S3 is a request for each stream: choose a longer interval
    there.

    A client that takes nothing for `send_timeout` seconds is dropped. Close the monitor like a
    chat handler. It never closes the store. Raises `InvalidRequest` for
    settings out of range.
    """
    if not (interval > 0 and heartbeat > 0) or max_streams < 1:
        raise InvalidRequest("interval and heartbeat are above 0 and max_streams at least 1")
    activity = _no_activity if handler is None else handler.activity
    listings = ListingCache(store, interval, max_streams, HEARTBEATS_OF_PATIENCE * heartbeat)
    actions = None if authorize_action is None else StreamActions(store, authorize_action)
    stream = event_stream(send_timeout, _PING_SECONDS)
    monitor = _Monitor(store, authorize, actions, activity, listings, max_streams, stream)
    return StreamHandler(
        monitor.routes(), monitor.close, patience=stream.patience, watch_signals=watch_signals
    )


def _no_activity(stream_id: str) -> None:
    """What a process without a handler produces of a stream: nothing."""


class _Monitor:
    """The endpoints of the monitor."""

    def __init__(
        self,
        store: StreamStore,
        authorize: Authorize,
        actions: StreamActions | None,
        activity: Callable[[str], Activity | None],
        listings: ListingCache,
        max_streams: int,
        stream: EventStream,
    ) -> None:
        self._store = store
        self._authorize = authorize
        self._actions = actions
        self._activity = activity
        self._listings = listings
        self._max_streams = max_streams
        self._stream = stream
        self._gate = stream.patience.gate

    def routes(self) -> dict[str, dict[str, Callable[[Exchange], Awaitable[None]]]]:
        return {
            "/": {"GET": self._page},
            **{f"/{name}": {"GET": partial(self._file, name)} for name in _MEDIA_TYPES},
            "/streams": {"GET": self._streams},
            "/events": {"GET": self._events},
            "/actions": {"POST": self._act},
        }

    async def close(self) -> None:
        self._gate.close()

    async def _page(self, exchange: Exchange) -> None:
        """Answer with the page; at a path with a slash, because it asks for paths below it."""
        await self._check(exchange)
        last = _last_segment(exchange)
        if last:
            query = exchange.scope.get("query_string", b"").decode("latin-1")
            url = f"{last}/{'?' if query else ''}{query}"
            await exchange.answer(RedirectResponse(url, headers={"Cache-Control": "no-store"}))
            return
        await exchange.answer(FileResponse(_FILES / "monitor.html", headers=_PAGE_HEADERS))

    async def _file(self, name: str, exchange: Exchange) -> None:
        """Answer with the page's style or script."""
        await self._check(exchange)
        media_type = _MEDIA_TYPES[name]
        file = FileResponse(_FILES / name, media_type=media_type, headers=_FILE_HEADERS)
        await exchange.answer(file)

    async def _act(self, exchange: Exchange) -> None:
        """Change a stream, if operators may."""
        await self._check(exchange)
        if self._actions is None:
            raise HttpError(403, "read_only", "this monitor only shows")
        await self._actions.act(exchange)

    async def _streams(self, exchange: Exchange) -> None:
        """Answer with a listing that is at most `interval` seconds old."""
        await self._check(exchange)
        prefix, limit = self._asked(exchange)
        listing = await self._listings.newest(prefix)
        if listing.problem is not None:
            raise listing.problem
        snapshot = listing.snapshot(
            limit, self._activity, has_actions=self._actions is not None
        )
        await exchange.answer(JSONResponse(snapshot, headers={"Cache-Control": "no-store"}))

    async def _events(self, exchange: Exchange) -> None:
        """Send each new listing as an event `snapshot`, or `problem` if the store fails."""
        await self._check(exchange)
        prefix, limit = self._asked(exchange)
        await self._stream.send(
            exchange, event_stream_headers(_PING_SECONDS), self._bodies(prefix, limit)
        )

    async def _bodies(self, prefix: str, limit: int) -> AsyncGenerator[bytes, None]:
        listing = None
        while True:
            listing = await self._listings.newest(prefix, but=listing)
            has_actions = self._actions is not None
            yield listing.event(limit, self._activity, has_actions=has_actions)

    async def _check(self, exchange: Exchange) -> None:
        await check_allowed(self._authorize, exchange)
        self._gate.check_open()

    def _asked(self, exchange: Exchange) -> tuple[str, int]:
        """The query's prefix and limit. Raises `HttpError`; 501 if the store has no `list`."""
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
        # The length first, because `int` raises for more than 4,300 digits (since Python 3.11).
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_number or not 1 <= int(text) <= self._max_streams:
            message = f"limit must be a number from 1 to {self._max_streams}"
            raise HttpError(400, "invalid_limit", message)
        return int(text)


def _last_segment(exchange: Exchange) -> str:
    """What the request's path ends with after its last slash, as the client wrote it.

    Frameworks change `path` (Litestar removes a slash at its end) but not `raw_path`, which
    servers may leave out.
    """
    scope = exchange.scope
    raw = scope.get("raw_path") or quote(scope["path"] or scope["root_path"]).encode()
    last: str = raw.partition(b"?")[0].rpartition(b"/")[2].decode("latin-1")
    return last
