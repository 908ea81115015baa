"""Any iterator as the source of a run."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
)
from typing import Any, Union

from streamstores.http.resumable.framings import Framing
from streamstores.runs import IteratorThread, close_source

__all__ = ["AnySource", "close_unread", "iterate", "records_of_source"]

AnySource = Union[AsyncIterable[Any], Iterable[Any], Callable[[], Any]]
"""An asynchronous or a plain iterator of pieces, or a function that returns one, which is then
called only if the stream is started. A plain iterator runs in a thread of its own."""


async def records_of_source(source: AnySource, framing: Framing) -> AsyncGenerator[bytes, None]:
    """The records of `source`. Closing this closes the source.

    Raises the source's exceptions, and `TypeError` or `ValueError` for what it cannot yield.
    """
    pieces = iterate(source)
    try:
        async for piece in pieces:
            for record in framing.records_of(piece):
                yield record
        rest = framing.rest()
        if rest:
            yield rest
    finally:
        # Leaving `async for` closes nothing. Without this the source would run on until the
        # garbage collector finds it, after a Stop too.
        await pieces.aclose()


async def iterate(source: AnySource) -> AsyncGenerator[Any, None]:
    """The pieces of `source`. Closing this closes the source."""
    opened = await _opened(source)
    pieces = _iterator_of(opened)
    try:
        async for piece in pieces:
            yield piece
    finally:
        await close_source(pieces)
        # The streams of `openai` and `anthropic` are iterated by a generator, and its end does
        # not close their connections.
        if pieces is not opened and hasattr(opened, "__aiter__"):
            await close_unread(opened)


async def close_unread(source: AnySource) -> None:
    """Close a source that is not needed, because the stream exists already."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is not None:
        closing = close()
        if inspect.isawaitable(closing):
            await closing


async def _opened(source: AnySource) -> Any:
    opened: Any = source() if callable(source) else source
    return await opened if inspect.isawaitable(opened) else opened


def _iterator_of(opened: Any) -> AsyncIterator[Any]:
    found: Any = opened  # a type checker takes the items of a narrowed Any for unknown
    if isinstance(opened, AsyncIterable):
        return aiter(found)
    # These are iterable too, by characters, numbers or keys, which are never what was meant.
    is_one_piece = isinstance(opened, (Mapping, str, bytes, bytearray, memoryview))
    if isinstance(opened, Iterable) and not is_one_piece:
        return IteratorThread(found)
    raise TypeError(f"a source is an iterator, not {type(found).__name__}")
