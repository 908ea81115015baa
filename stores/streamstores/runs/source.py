"""Sources: what a run drives into a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Union

from streamstores.store import StreamInfo

__all__ = ["Revive", "Source", "close_source"]

Source = AsyncIterator[bytes]
"""The records of a stream, none of them empty. It is closed by `aclose`, if it has one."""

Revive = Callable[[StreamInfo], Union[Source, None]]
"""A source that goes on where the stream ends; None if nothing can."""


async def close_source(source: Any) -> None:
    """Close an asynchronous iterator, if it can be closed."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
