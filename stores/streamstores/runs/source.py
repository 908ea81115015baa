"""Sources: what a run drives into a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Union, cast

from streamstores.errors import InvalidRequest
from streamstores.runs.run_log import log_run
from streamstores.store import StreamInfo

__all__ = ["Revive", "Source", "as_exception", "as_record", "close_source", "close_unread"]

Source = AsyncIterator[bytes]
"""The records of a stream. If it has a method `aclose`, that closes it."""

Revive = Callable[[StreamInfo], Union[Source, None]]
"""A source that goes on where the stream ends; None if nothing can."""


async def close_source(source: Any) -> None:
    """Close an asynchronous iterator, if it can be closed."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()


async def close_unread(source: Source, stream_id: str) -> None:
    """Close a source that no run has begun to step, and log what it raises."""
    try:
        await close_source(source)
    except asyncio.CancelledError:
        raise
    except BaseException as exc:
        log_run("source_not_closed", stream_id, exc_info=exc)


def as_record(record: object) -> bytes:
    """What a source has yielded, as bytes. Raises `InvalidRequest` for anything else."""
    if isinstance(record, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", record))  # a copy: the source may use a mutable buffer again
    raise InvalidRequest(f"a source yields bytes, not {type(record).__name__}")


def as_exception(exc: BaseException) -> Exception:
    """What a source has raised, as an exception that ends no task, loop or iteration."""
    if isinstance(exc, Exception) and not isinstance(exc, (StopIteration, StopAsyncIteration)):
        return exc
    wrapped = RuntimeError(f"the source raised {type(exc).__name__}")
    wrapped.__cause__ = exc
    return wrapped
