"""The ASGI side of a handler: finding the endpoint, answering refusals, starting and ending."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from streamstores.http.errors import HttpError, as_http_error
from streamstores.http.signals import SignalWatch
from streamstores.store import StreamStore

__all__ = ["Activity", "Endpoint", "Exchange", "StreamHandler", "path_below_mount"]

_STREAM_JS = Path(__file__).parent / "web" / "stream.js"

_log = logging.getLogger("streamstores.http")


@dataclass
class Exchange:
    """One request and the way to answer it."""

    scope: Scope
    receive: Receive
    send: Send
    body: bytes = field(default=b"", init=False)
    """What was read of the request's body; see `requests.read_body`."""

    @cached_property
    def headers(self) -> Headers:
        return Headers(scope=self.scope)

    def request(self) -> Request:
        """The request for somebody else's eyes, whose body can be read again."""
        return Request(self.scope, self._replay)

    async def answer(self, response: Response) -> None:
        await response(self.scope, self.receive, self.send)

    async def _replay(self) -> Message:
        return {"type": "http.request", "body": self.body, "more_body": False}


Endpoint = Callable[[Exchange], Awaitable[None]]


class Activity(NamedTuple):
    """What one process does with a stream."""

    followers: int
    """Responses of this process that are sending it."""
    is_produced: bool
    """Whether this process holds the source, running or paused."""


class StreamHandler:
    """An ASGI application to run, or to mount below a path of another one.

    It starts by itself with the first request. It ends with `aclose()`, with the signal that
    tells the server to end, or with the server's shutdown event where it is the server's
    application (a mounted one gets none). `async with handler:` closes it too. The store is
    closed only by that event, after which nobody else could.

    `routes` has the endpoints by path and method; `every_path`, given instead, is one endpoint
    that sees to all of them itself.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Endpoint]],
        on_close: Callable[[], Coroutine[Any, Any, None]],
        *,
        store: StreamStore | None = None,
        activity: Callable[[str], Activity] | None = None,
        every_path: Endpoint | None = None,
        watch_signals: bool,
    ) -> None:
        self._routes = {**routes, "/stream.js": {"GET": _send_stream_js}}
        self._every_path = every_path
        self._on_close = on_close
        self._store = store
        self._activity = activity
        self._watches_signals = watch_signals
        self._signals: SignalWatch | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Exchange(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def activity(self, stream_id: str) -> Activity | None:
        """What this process does with a stream; None where this handler keeps none."""
        return None if self._activity is None else self._activity(stream_id)

    async def aclose(self) -> None:
        """Hand over the streams that run here, and end their followers' responses, which
        then reconnect elsewhere. Idempotent; later requests get 503."""
        await asyncio.shield(self._close())

    def _close(self) -> asyncio.Task[None]:
        if self._closing is None:
            if self._signals is not None:
                self._signals.close()
            self._closing = asyncio.get_running_loop().create_task(self._on_close())
        return self._closing

    async def __aenter__(self) -> StreamHandler:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _serve(self, exchange: Exchange) -> None:
        if self._watches_signals and self._signals is None and self._closing is None:
            self._signals = SignalWatch(self._close)
        try:
            await self._endpoint(exchange.scope)(exchange)
        except (ClientDisconnect, OSError):
            return  # nobody is left to answer
        except Exception as exc:
            await exchange.answer(_refusal(exc).response())

    def _endpoint(self, scope: Scope) -> Endpoint:
        if self._every_path is not None:
            return self._every_path
        endpoints = self._routes.get(path_below_mount(scope))
        if endpoints is None:
            raise HttpError(404, "not_found", "no such path")
        endpoint = endpoints.get(scope["method"])
        if endpoint is None:
            allow = ", ".join(sorted(endpoints))
            message = f"this path takes {allow}"
            raise HttpError(405, "method_not_allowed", message, headers={"Allow": allow})
        return endpoint

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
                if self._store is not None:
                    await self._store.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


def path_below_mount(scope: Scope) -> str:
    """The path without the mount's, which some frameworks take off themselves, and without
    a slash at its end, which Litestar puts there."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    below = path[len(root) :] if root and path.startswith(f"{root}/") else path
    return below.rstrip("/") or "/"


def _refusal(exc: Exception) -> HttpError:
    error = as_http_error(exc)
    if error is None:
        _log.error("a request failed", exc_info=exc)
        return HttpError(500, "internal", "a fault of the server")
    return error


async def _send_stream_js(exchange: Exchange) -> None:
    """The JavaScript client."""
    if not _STREAM_JS.is_file():
        raise HttpError(404, "not_found", "no such path")
    headers = {"Cache-Control": "no-cache"}
    await exchange.answer(FileResponse(_STREAM_JS, headers=headers, media_type=_JAVASCRIPT))


_JAVASCRIPT = "text/javascript; charset=utf-8"
