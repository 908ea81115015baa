"""Calling the functions that a user has registered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_safely(callback: Callable[[T], object] | None, argument: T) -> None:
    """Call a function of the user's. If it raises, the event loop's handler is told."""
    if callback is None:
        return
    try:
        callback(argument)
    except Exception as exc:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a callback of streamstores.client.Stream failed", "exception": exc}
        )
