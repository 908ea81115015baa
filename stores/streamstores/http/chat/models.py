"""Model functions, and their answers as records."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from starlette.datastructures import Headers

from streamstores.http.chat.records import Event, encode
from streamstores.runs.source import close_source

__all__ = ["Model", "StreamRequest", "can_continue", "continues", "records_from"]

M = TypeVar("M", bound=Callable[..., Any])

_END = object()


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
    scope: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
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
    if isinstance(answer, (str, Event)):
        answer = [answer]
    if isinstance(answer, AsyncIterable):
        return aiter(answer)
    if isinstance(answer, Iterable):
        return _IteratorThread(answer)
    raise TypeError(
        f"a model returns an iterator of str and Event, not {type(answer).__name__}"
    )


class _IteratorThread:
    """An asynchronous iterator over a plain iterator, which runs in a thread of its own.

    The thread is not from a pool, because models that block for minutes would use up the pool
    for everything else. It is a daemon, so that it cannot keep the process from ending.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._loop = asyncio.get_running_loop()
        self._steps: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        self._closed: asyncio.Future[Any] = self._loop.create_future()
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run,
            args=(self._take_steps,),
            name="streamstores: model",
            daemon=True,
        )
        thread.start()

    def __aiter__(self) -> _IteratorThread:
        return self

    async def __anext__(self) -> Any:
        step = self._loop.create_future()
        self._steps.put(step)
        piece = await step
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the iterator as soon as the step that is under way has returned."""
        self._steps.put(None)
        await asyncio.shield(self._closed)

    def _take_steps(self) -> None:
        """The thread's own function: one `next()` for each step asked for, then the close."""
        iterator = None
        while (step := self._steps.get()) is not None:
            try:
                if iterator is None:
                    iterator = iter(self._iterable)
                self._answer(step, next(iterator, _END))
            except BaseException as exc:
                self._answer(step, _Raised(exc))
        with suppress(BaseException):  # the answer has ended, so there is no place to report it
            close_iterator = getattr(iterator or self._iterable, "close", None)
            if close_iterator is not None:
                close_iterator()
        self._answer(self._closed, None)

    def _answer(self, step: asyncio.Future[Any], result: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_resolve, step, result)


@dataclass
class _Raised:
    exc: BaseException


def _resolve(step: asyncio.Future[Any], result: Any) -> None:
    if step.done():
        return
    if isinstance(result, _Raised):
        step.set_exception(_as_exception(result.exc))
    else:
        step.set_result(result)


def _as_exception(exc: BaseException) -> Exception:
    """Futures refuse `StopIteration`, and `SystemExit` in a model must not end the server."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    wrapped = RuntimeError(f"the model raised {type(exc).__name__}")
    wrapped.__cause__ = exc
    return wrapped
