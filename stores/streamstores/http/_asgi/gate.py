"""The gate of a handler. When it closes, open responses end and new requests are refused."""

from __future__ import annotations

import asyncio

from streamstores.errors import StoreUnavailable

__all__ = ["Gate"]


class Gate:
    """Whether a handler still takes requests."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def check_open(self) -> None:
        """Raise `StoreUnavailable` once the gate is closed, so that clients retry elsewhere."""
        if self.is_closed:
            raise StoreUnavailable("this process is closing")

    def close(self) -> None:
        """Refuse requests from now on, and wake every `wait_closed`. Idempotent."""
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()
