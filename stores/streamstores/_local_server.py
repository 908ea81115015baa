"""The web server of a command: its socket, its start, and an end at which nothing is lost."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from streamstores.http import StreamHandler

__all__ = ["LocalServer", "listen", "url_of", "without_secrets"]

_ENDS = (signal.SIGINT, signal.SIGTERM)


class LocalServer(uvicorn.Server):
    """A server that closes the handlers first, and only then waits for open responses to end.

    uvicorn waits for them before the lifespan ends, but they end only when their handler
    closes.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        handlers: Sequence[StreamHandler],
        announce: Callable[[], None],
    ) -> None:
        # Without a lifespan: uvicorn would end it only after the open responses have ended.
        super().__init__(uvicorn.Config(app, lifespan="off", log_level="warning"))
        self._handlers = handlers
        self._announce = announce

    async def serve_on(self, listening: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM, and return, so that the caller can close the store."""
        with _raised_signals_ignored():
            await self.serve(sockets=[listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for handler in self._handlers:
            await handler.aclose()
        await super().shutdown(sockets)


@contextmanager
def _raised_signals_ignored() -> Generator[None, None, None]:
    """uvicorn handles signals while it serves, and raises them once more when it has ended:
    SIGTERM would then kill the process before anything else is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # uvicorn handles none there either
        return
    before = {each: signal.signal(each, _ignore) for each in _ENDS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _ignore(*_: Any) -> None:
    pass


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free. Raises `OSError`, with what to do."""
    # uvicorn gets a listening socket, because it reports a port in use only in its log.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise OSError(
            f"cannot listen on {host} port {port} ({reason}): "
            "choose another with --host or --port"
        ) from exc


def url_of(listening: socket.socket, host: str) -> str:
    """The URL at which a browser on this machine reaches the socket."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"http://{shown}:{listening.getsockname()[1]}"


def without_secrets(store_url: str) -> str:
    """A store URL without its user, password and options, to be shown."""
    parts = urlsplit(store_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
