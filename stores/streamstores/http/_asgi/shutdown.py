"""The end of a handler: it happens once, whoever asks for it first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from streamstores.http._asgi.signals import SignalWatch

__all__ = ["Shutdown"]


class Shutdown:
    """Runs `on_close` once: for the first caller of `aclose`, or, with `watches_signals`, when
    the signal arrives that ends the server."""

    def __init__(
        self, on_close: Callable[[], Coroutine[Any, Any, None]], *, watches_signals: bool
    ) -> None:
        self._on_close = on_close
        self._watches_signals = watches_signals
        self._signals: SignalWatch | None = None
        self._closing: asyncio.Task[None] | None = None

    def watch_signals(self) -> None:
        """Begin to watch, if nothing does yet. Call it with each request.

        Not earlier: handlers are made when their module is imported. The server installs its
        signal handlers after that, and before it there is nothing to wrap.
        """
        if self._watches_signals and self._signals is None and self._closing is None:
            self._signals = SignalWatch(self.begin)

    def begin(self) -> asyncio.Task[None]:
        """Close in a task of its own. Idempotent."""
        if self._closing is None:
            if self._signals is not None:
                self._signals.close()
            self._closing = asyncio.get_running_loop().create_task(self._on_close())
        return self._closing

    async def aclose(self) -> None:
        """Close, and wait until that is done. Idempotent."""
        # A caller that is cancelled gives up waiting. The closing must go on.
        await asyncio.shield(self.begin())
