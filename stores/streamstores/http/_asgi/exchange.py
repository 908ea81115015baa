"""A request together with the means to answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

__all__ = ["Endpoint", "Exchange", "path_below_mount"]


@dataclass
class Exchange:
    """A request together with the means to answer it."""

    scope: Scope
    receive: Receive
    send: Send
    body: bytes = field(default=b"", init=False)
    """The part of the request's body that has been read; see `requests.read_body`."""

    @cached_property
    def headers(self) -> Headers:
        return Headers(scope=self.scope)

    def request(self) -> Request:
        """The request for the application's own callbacks, which may read the body again."""
        return Request(self.scope, self._replay)

    async def answer(self, response: Response) -> None:
        await response(self.scope, self.receive, self.send)

    async def _replay(self) -> Message:
        # Not the server's `receive`: once the body has been read, that waits until the client
        # leaves.
        return {"type": "http.request", "body": self.body, "more_body": False}


Endpoint = Callable[[Exchange], Awaitable[None]]


def path_below_mount(scope: Scope) -> str:
    """The request's path relative to the mount, without a slash at its end.

    Some frameworks take the mount's prefix off `path` themselves and some do not; Litestar
    appends a slash.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    below = path[len(root) :] if root and path.startswith(f"{root}/") else path
    return below.rstrip("/") or "/"
