"""What `streamstores serve` serves: a store's monitor, and its streams as Durable Streams."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route

from streamstores.http import StreamHandler, create_durable_streams_app
from streamstores.http.monitor import create_monitor, only_loopback
from streamstores.store import StreamStore

__all__ = ["StoreServer"]

App = Callable[[Any, Any, Any], Awaitable[None]]


class StoreServer:
    """An application with the monitor at `/monitor/` and each stream at `/streams/<id>`.

    With a password every request needs it, and without one every request must come from this
    machine. Streams can be changed only if `is_writable`. Pages of other origins are refused
    in any case: a browser would send them the user's password, or its place on this machine.
    """

    def __init__(self, store: StreamStore, *, password: str | None, is_writable: bool) -> None:
        self._has_password = password is not None
        self._is_writable = is_writable
        monitor = create_monitor(
            store,
            authorize=self._may_look,
            authorize_action=self._may_act if is_writable else None,
        )
        streams = create_durable_streams_app(store, authorize=self._may_use, allow_origin=None)
        self.handlers: list[StreamHandler] = [monitor, streams]
        """To be closed before the store."""
        routes = [
            Route("/", _to_the_monitor),
            Route("/monitor", _to_the_monitor),
            Mount("/monitor", monitor),
            Mount("/streams", streams),
        ]
        app: App = Starlette(routes=routes)
        self.app: App = app if password is None else _with_password(app, password)

    def _may_look(self, request: Request) -> bool:
        return self._has_password or only_loopback(request)

    def _may_act(self, request: Request, stream_id: str, action: str) -> bool:
        return True  # who may look, may act: the monitor asks `_may_look` first

    def _may_use(self, request: Request, stream_id: str, action: str) -> bool:
        is_allowed = action == "read" or self._is_writable
        return is_allowed and self._may_look(request) and not _is_of_another_origin(request)


async def _to_the_monitor(request: Request) -> RedirectResponse:
    return RedirectResponse("/monitor/")


def _is_of_another_origin(request: Request) -> bool:
    """Whether a page of another origin made a browser send the request.

    A GET that a page cannot read the answer of would still keep a server busy, and a POST of
    plain text needs no preflight.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _with_password(app: App, password: str) -> App:
    """Ask for the password before `app` sees anything, as Basic with any user, or as Bearer."""
    expected = password.encode()

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        given = _password_in(Headers(scope=scope).get("authorization", ""))
        if given is not None and hmac.compare_digest(given, expected):
            await app(scope, receive, send)
            return
        headers = {
            "WWW-Authenticate": 'Basic realm="streamstores", charset="UTF-8"',
            "Cache-Control": "no-store",
        }
        refusal = PlainTextResponse("a password is needed\n", 401, headers)
        await refusal(scope, receive, send)

    return checked


def _password_in(authorization: str) -> bytes | None:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.encode("latin-1")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return None
