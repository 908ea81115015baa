"""Model functions, and their answers as records."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from starlette.datastructures import Headers

from streamstores.http.chat.records import Event, encode
from streamstores.runs import IteratorThread, close_source

__all__ = ["Model", "StreamRequest", "can_continue", "continues", "records_from"]

M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True)
class StreamRequest:
    """A request to a model."""

    prompt: str
    system: str | None = None
    model: str = "default"
    """The name of the model that is called, as the handler knows it."""
    session_id: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    """The conversation so far, as the client sent it. Only checked to be JSON objects."""
    id: str = ""
    """The id of the stream that the answer goes to; empty if the handler keeps nothing."""
    partial: str = ""
    """The answer so far, if a model marked `@continues` is to go on from it; else empty."""
    scope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)
    """The ASGI scope of the request that started the stream (`scope["user"]`, `headers`).
    Empty when the model continues an answer, because there may be no request then."""

    @property
    def headers(self) -> Headers:
        return Headers(scope={"headers": [], **self.scope})


Model = Callable[[StreamRequest], Union[AsyncIterator[Any], Iterator[Any], Any]]
"""`async def model(request) -> AsyncIterator[str | Event]`, or the same without `async`."""


def continues(model: M) -> M:
    """Mark a model that can continue an answer from `request.partial`.

    Only a marked model is ever called again for a stream: after its process died, or when a
    stopped stream is continued and its paused generator is gone. The text that it yields then
    is appended to the answer so far. For any other model a second call would begin a second,
    paid answer, so its stream stays stopped instead.
    """
    model.continues_partial = True  # type: ignore[attr-defined]  # a mark on any callable
    return model


def can_continue(model: Model) -> bool:
    return getattr(model, "continues_partial", False) is True


async def records_from(
    model: Model, request: StreamRequest, record_bytes: int
) -> AsyncGenerator[bytes, None]:
    """The records of a model's answer. Closing this closes the model's iterator.

    Raises the model's exceptions, and `TypeError` or `ValueError` if the model yields
    something that no stream can hold.
    """
    pieces = await _call(model, request)
    try:
        async for piece in pieces:
            for record in encode(piece, record_bytes):
                yield record
    finally:
        await close_source(pieces)


async def _call(model: Model, request: StreamRequest) -> AsyncIterator[Any]:
    """Call the model, and make an asynchronous iterator of any answer that models may give."""
    answer = model(request)
    if inspect.isawaitable(answer):
        answer = await answer
    # Before the test for iterables, since a string is an iterable of characters.
    if isinstance(answer, (str, Event)):
        answer = [answer]
    found: Any = answer  # a type checker takes the items of a narrowed Any for unknown
    if isinstance(answer, AsyncIterable):
        return aiter(found)
    # A dict or bytes would be iterated over too, and a dict's keys sent as the answer.
    is_one_piece = isinstance(answer, (Mapping, bytes, bytearray, memoryview))
    if isinstance(answer, Iterable) and not is_one_piece:
        return IteratorThread(found)
    raise TypeError(f"a model returns an iterator of str and Event, not {type(found).__name__}")
