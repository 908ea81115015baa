"""The assertions of the checks. Each says in words what was expected and what happened.

Checks run with and without pytest, so nothing here relies on pytest rewriting `assert`.
"""

from __future__ import annotations

import asyncio
import reprlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from streamstores.conformance.stacks import task_stack
from streamstores.store import Record, StreamInfo, StreamStore

__all__ = [
    "NO_ATTRIBUTES",
    "PATIENCE",
    "Call",
    "Patience",
    "Raises",
    "content",
    "equal",
    "eventually",
    "mark_retrieved",
    "outcome",
    "raises",
    "read_all",
    "tile",
    "within",
]


@dataclass
class Patience:
    """How many seconds a check waits before it fails."""

    prompt: float = 4.0
    """For what happens "at once". Less than the default `poll_interval`, so that a lost
    notification fails the check, and enough for a busy machine."""
    eventual: float = 15.0
    """For what happens by itself, such as an expiry."""
    opening: float = 60.0
    """For opening a store."""
    whole_check: float = 180.0
    """For a whole check; a check that takes longer is reported as hanging."""


PATIENCE = Patience()

NO_ATTRIBUTES: dict[str, str] = {}

Call = Callable[[], Awaitable[object]]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 400
_repr.maxlist = _repr.maxdict = _repr.maxtuple = _repr.maxset = 12


def equal(actual: object, expected: object, what: str) -> None:
    """Raise `AssertionError` unless the two are equal; `what` names the thing compared."""
    __tracebackhide__ = True
    if actual != expected:
        raise AssertionError(
            f"{what}: expected {_repr.repr(expected)}, got {_repr.repr(actual)}"
        )


class Raises(Generic[E]):
    """A context manager whose block must raise one of `types`; `error` is the exception."""

    def __init__(self, types: tuple[type[E], ...], what: str) -> None:
        self._types = types
        self._what = what
        self._error: E | None = None

    @property
    def error(self) -> E:
        assert self._error is not None, "the block has not raised yet"
        return self._error

    def __enter__(self) -> Raises[E]:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        __tracebackhide__ = True
        wanted = " or ".join(each.__name__ for each in self._types)
        if exc is None:
            raise AssertionError(f"{self._what}: expected {wanted}, but nothing was raised")
        if isinstance(exc, self._types):
            self._error = exc
            return True
        if not isinstance(exc, Exception):
            return False  # a cancellation, for example, is not an outcome of the call
        text = f"{self._what}: expected {wanted}, got {type(exc).__name__}: {exc}"
        raise AssertionError(text) from exc


def raises(kind: type[E], what: str, *others: type[E]) -> Raises[E]:
    return Raises((kind, *others), what)


async def within(seconds: float, awaitable: Awaitable[T], what: str) -> T:
    """The result of `awaitable`; raises `AssertionError` if it takes longer than `seconds`.

    Never waits much longer than that: an awaitable that ignores its cancellation is left
    behind, and the error says so.
    """
    __tracebackhide__ = True
    task = asyncio.ensure_future(awaitable)
    task.add_done_callback(mark_retrieved)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        place = task_stack(task)[-1:] if isinstance(task, asyncio.Task) else []
        # Not `wait_for`: it waits for the cancelled task without a bound, so a store that
        # ignores the cancellation would hang the suite.
        if not task.done():
            task.cancel()
    if done:
        return await task
    text = f"{what}: nothing happened for {seconds:g} seconds"
    if place:
        text += f"; the call is at {place[0]}"
    _, ignoring = await asyncio.wait([task], timeout=PATIENCE.prompt)
    if ignoring:
        text += ", and it ignores its cancellation"
    raise AssertionError(text)


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting the exception of a future that was given up."""
    if not future.cancelled():
        future.exception()


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until `condition()` is true, asking every 20 ms."""
    __tracebackhide__ = True
    deadline = time.monotonic() + PATIENCE.eventual
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: still false after {PATIENCE.eventual:g} seconds")
        await asyncio.sleep(0.02)


async def outcome(awaitable: Awaitable[T]) -> T | Exception:
    """The result, or the exception, returned instead of raised. Cancellation is raised."""
    try:
        return await awaitable
    except Exception as exc:
        return exc


def tile(records: list[Record], start: int, what: str) -> int:
    """The end of the records, which must follow each other from `start` without a gap."""
    __tracebackhide__ = True
    for record in records:
        equal(type(record.data), bytes, f"{what}: type of the data at {record.offset}")
        equal(record.offset, start, f"{what}: offset of the next record")
        if not record.data:
            raise AssertionError(f"{what}: an empty record at {start}")
        start = record.end
    return start


async def read_all(
    store: StreamStore, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
) -> tuple[list[Record], StreamInfo]:
    """Every record from `offset` on, and the last info; each page is checked on the way."""
    __tracebackhide__ = True
    records: list[Record] = []
    while True:
        page = await store.read(stream_id, offset, max_bytes=max_bytes)
        what = f"page from {offset} with max_bytes={max_bytes}"
        equal(page.next_offset, tile(page.records, offset, what), f"{what}: next_offset")
        size = page.next_offset - offset
        if size > max_bytes and len(page.records) > 1:
            raise AssertionError(f"{what}: {len(page.records)} records of {size} bytes")
        records += page.records
        offset = page.next_offset
        if offset == page.info.tail:
            return records, page.info
        if not page.records:
            raise AssertionError(f"{what}: empty before the tail {page.info.tail}")


async def content(store: StreamStore, stream_id: str, offset: int = 0) -> bytes:
    """All bytes from `offset` on."""
    records, _ = await read_all(store, stream_id, offset)
    return b"".join(record.data for record in records)
