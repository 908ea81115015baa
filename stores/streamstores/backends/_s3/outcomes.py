"""What a failure means for the caller: whether the change may have been applied."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from streamstores.errors import InvalidRequest, OutcomeUnknown, StoreUnavailable


@contextmanager
def after_a_write(stream_id: str) -> Generator[None, None, None]:
    """For the requests that follow a write which may have landed: a failure of theirs is
    `OutcomeUnknown`, as `StoreUnavailable` would promise that nothing was applied."""
    try:
        yield
    except (StoreUnavailable, InvalidRequest) as exc:
        raise OutcomeUnknown(
            f"the write to stream {stream_id!r} may have been applied: {exc}"
        ) from exc


@contextmanager
def repeatable() -> Generator[None, None, None]:
    """For writes that change no stream and may be made twice: calendar entries, probes, and
    what a sweep removes. An unknown outcome of theirs is `StoreUnavailable`."""
    try:
        yield
    except OutcomeUnknown as exc:
        raise StoreUnavailable(str(exc)) from exc
