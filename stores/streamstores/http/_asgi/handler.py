"""The ASGI application around a handler's endpoints: routing, refusals, start and end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from streamstores import observation
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.exchange import Endpoint, Exchange, path_below_mount
from streamstores.http._asgi.patience import BoundedSend, ClientPatience
from streamstores.http._asgi.shutdown import Shutdown
from streamstores.store import StreamStore

__all__ = ["Activity", "StreamHandler"]


class Activity(NamedTuple):
    """What one process does with a stream."""

    followers: int
    """How many responses of this process are sending the stream."""
    is_produced: bool
    """Whether this process holds the stream's source, running or paused."""


class StreamHandler:
    """An ASGI application, to run by itself or to mount in another application.

    It starts with its first request. It ends with `aclose()`, with the signal that ends the
    server, or with the server's shutdown event. (A mounted application receives no such event.)
    `async with handler:` closes it too. Only the shutdown event closes the store as well,
    because then nothing else can use it.

    `routes` has the endpoints by path and method. `every_path`, given instead, is an endpoint
    for all paths and methods.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Endpoint]],
        on_close: Callable[[], Coroutine[Any, Any, None]],
        *,
        store: StreamStore | None = None,
        activity: Callable[[str], Activity] | None = None,
        every_path: Endpoint | None = None,
        patience: ClientPatience,
        watch_signals: bool,
    ) -> None:
        self._routes = routes
        self._every_path = every_path
        self._store = store
        self._activity = activity
        self._patience = patience
        self._shutdown = Shutdown(on_close, watches_signals=watch_signals)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or the events of the server's start and end."""
        if scope["type"] == "http":
            if observation.observer is None:
                await self._serve(scope, receive, send)
                return
            with observation.observer.request(scope, send, self._route(scope)) as observed:
                await self._serve(scope, receive, observed)
        elif scope["type"] == "lifespan":
            await self._answer_lifespan(receive, send)
        else:
            # Before the connection is accepted, so the server answers the handshake with 403
            # (ASGI).
            await send({"type": "websocket.close", "code": 1000})

    def activity(self, stream_id: str) -> Activity | None:
        """What this process does with a stream; None if this handler does not keep track."""
        return None if self._activity is None else self._activity(stream_id)

    async def aclose(self) -> None:
        """Hand over the streams that run here, and end their responses, so that clients
        reconnect elsewhere. Idempotent. Later requests get 503."""
        await self._shutdown.aclose()

    async def __aenter__(self) -> StreamHandler:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _route(self, scope: Scope) -> str | None:
        """The path of the endpoint, without ids; None if there is none."""
        if self._every_path is not None:
            return "/{stream_id}"
        path = path_below_mount(scope)
        return path if path in self._routes else None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, BoundedSend(scope, send, self._patience))
        self._shutdown.watch_signals()
        try:
            await self._endpoint(exchange.scope)(exchange)
        except (ClientDisconnect, OSError):
            return  # the client has left
        except Exception as exc:
            await exchange.answer(refusal_of(exc).response())

    def _endpoint(self, scope: Scope) -> Endpoint:
        """The endpoint for the path and the method. Raises `HttpError` 404 and 405."""
        if self._every_path is not None:
            return self._every_path
        endpoints = self._routes.get(path_below_mount(scope))
        if endpoints is None and scope["path"] == scope.get("root_path"):
            endpoints = self._routes.get("/")  # the mount itself, without a slash
        if endpoints is None:
            raise HttpError(404, "not_found", "no such path")
        endpoint = endpoints.get(scope["method"])
        if endpoint is None:
            allow = ", ".join(sorted(endpoints))
            message = f"this path takes {allow}"
            raise HttpError(405, "method_not_allowed", message, headers={"Allow": allow})
        return endpoint

    async def _answer_lifespan(self, receive: Receive, send: Send) -> None:
        """Answer the lifespan events of a server whose own application this is."""
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
