"""What the mounted endpoints of other frameworks' protocols share: routes, users, refusals."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Union, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamstores.errors import InvalidRequest, LimitExceeded
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.exchange import Exchange, path_below_mount
from streamstores.http._asgi.requests import read_object
from streamstores.http.resumable import ResumableStreams, StreamResponse
from streamstores.store import StreamInfo

__all__ = ["Identify", "MountedEndpoint"]

Identify = Callable[[Request], Union[str, Awaitable[Union[str, None]], None]]
"""`identify(request)`, plain or async: the user that sent the request, or None to refuse it."""

Endpoint = Callable[..., Awaitable[Response]]


class MountedEndpoint:
    """An ASGI application to mount in another one.

    A subclass has the routes: a method, a pattern of the path below the mount, and the
    endpoint, which is called with the request, its user and the pattern's groups.
    """

    def __init__(
        self,
        streams: ResumableStreams,
        routes: Mapping[tuple[str, str], Endpoint],
        *,
        identify: Identify | None,
        max_body_bytes: int,
    ) -> None:
        self.streams: ResumableStreams = streams
        self._routes = [
            (method, re.compile(pattern), endpoint)
            for (method, pattern), endpoint in routes.items()
        ]
        self._identify = identify
        self._max_body_bytes = max_body_bytes
        self._watched: dict[str, asyncio.Task[None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Whatever an endpoint raises becomes a refusal."""
        if scope["type"] != "http":
            # Before the connection is accepted, so the server answers the handshake with 403.
            await send({"type": "websocket.close", "code": 1000})
            return
        exchange = Exchange(scope, receive, send)
        try:
            response = await self._answer(exchange)
        except (ClientDisconnect, OSError):
            return  # the client has left
        except Exception as exc:
            response = self._refuse(_as_http_error(exc))
        await response(scope, receive, send)

    async def aclose(self) -> None:
        """Hand over the streams that run here, and end their responses, so that clients
        reconnect elsewhere. Idempotent; later requests are refused with 503."""
        for task in list(self._watched.values()):
            task.cancel()
        await self.streams.aclose()

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """For `FastAPI(lifespan=….lifespan)`: closes this object and the store."""
        async with self.streams.store:
            try:
                yield
            finally:
                await self.aclose()

    def _watch(self, info: StreamInfo) -> None:
        """See to it that a stream whose process dies is continued or ends, even if no client
        reads it and all only ask for its state."""
        if info.id in self._watched or self.streams.is_running(info.id):
            return
        task = asyncio.ensure_future(self._to_the_end(info.id, info.tail))
        self._watched[info.id] = task
        task.add_done_callback(partial(self._unwatch, info.id))

    def _unwatch(self, stream_id: str, task: asyncio.Task[None]) -> None:
        del self._watched[stream_id]
        if not task.cancelled():
            task.exception()  # read, or asyncio reports it; the next request meets it too

    async def _to_the_end(self, stream_id: str, offset: int = 0) -> None:
        async for _ in self.streams.follow(stream_id, offset):
            pass

    def _refuse(self, error: HttpError) -> Response:
        """A refusal as the framework's clients understand it."""
        raise NotImplementedError

    async def _body(self, exchange: Exchange) -> dict[str, Any]:
        """The request's JSON object. Raises `HttpError`."""
        return await read_object(exchange, self._max_body_bytes)

    async def _answer(self, exchange: Exchange) -> Response:
        endpoint, groups = self._route(exchange.scope)
        user = await self._user(exchange)
        response = await endpoint(exchange, user, **groups)
        # The refusals of `ResumableStreams` have its own form.
        if response.status_code >= 400 and not isinstance(response, StreamResponse):
            found = json.loads(bytes(response.body))
            if isinstance(found.get("code"), str):
                error = HttpError(response.status_code, found["code"], found["error"])
                return self._refuse(error)
        return response

    def _route(self, scope: Scope) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint for the path and the method. Raises `HttpError` 404 and 405."""
        path, allowed = path_below_mount(scope), set[str]()
        for method, pattern, endpoint in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if method == scope["method"]:
                return endpoint, found.groupdict()
            allowed.add(method)
        if not allowed:
            raise HttpError(404, "not_found", "no such path")
        headers = {"Allow": ", ".join(sorted(allowed))}
        message = f"this path takes {headers['Allow']}"
        raise HttpError(405, "method_not_allowed", message, headers=headers)

    async def _user(self, exchange: Exchange) -> str:
        """The user that sent the request; the empty text if there are no users."""
        if self._identify is None:
            return ""
        user = self._identify(exchange.request())
        if inspect.isawaitable(user):
            user = await user
        # Not "if not user": the empty text would share the streams of an application without
        # users.
        if not isinstance(user, str) or not user:
            raise HttpError(401, "unauthorized", "this is not allowed")
        return user


def _as_http_error(exc: Exception) -> HttpError:
    if isinstance(exc, HTTPException):  # of Starlette and FastAPI, by the application
        headers = cast("dict[str, str] | None", exc.headers)
        return HttpError(exc.status_code, "refused", str(exc.detail), headers=headers)
    if isinstance(exc, InvalidRequest) and not isinstance(exc, LimitExceeded):
        return HttpError(400, "invalid_request", str(exc))
    return refusal_of(exc)
