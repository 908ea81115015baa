"""The gate of a handler. When it closes, open responses end and new requests are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamstores.errors import StoreUnavailable

__all__ = ["Gate"]


class Gate:
    """Whether a handler still takes requests."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()
        self._on_close: set[Callable[[], None]] = set()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def check_open(self) -> None:
        """Raise `StoreUnavailable` once the gate is closed, so that clients retry elsewhere."""
        if self.is_closed:
            raise StoreUnavailable("this process is closing")

    def close(self) -> None:
        """Refuse requests from now on, and tell all that wait for it. Idempotent."""
        self._closed.set()
        for on_close in list(self._on_close):
            on_close()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def tell(self, on_close: Callable[[], None]) -> None:
        """Call `on_close` when the gate closes, or now if it has, until `forget`. It is cheaper
        than a task in `wait_closed`."""
        self._on_close.add(on_close)
        if self.is_closed:
            on_close()

    def forget(self, on_close: Callable[[], None]) -> None:
        self._on_close.discard(on_close)
