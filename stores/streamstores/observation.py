"""Observation: where the package tells what it does, for whatever turns that into telemetry.

There is one `Observer` in a process, or none. Without an observer each place that would tell it
something costs one look at `observation.observer`. None of them is in the way of a single
record. `streamstores.integrations.opentelemetry` has an observer; an application can write
another one:

    class Sweeps(Observer):
        def swept(self, backend: str, streams: int) -> None:
            print(backend, streams)

    observe(Sweeps())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from streamstores.values import StreamInfo

__all__ = ["Note", "Observer", "observe", "observed_run", "observed_start", "observed_takeover"]

Note = Callable[[str], None]
"""Takes the outcome of what is observed, as one word. Called at most once."""


class Observer:
    """What an observer may be told; each method does nothing unless it is overridden.

    The methods are called in the event loop of the store that they are about (an application
    may have several loops in several threads). They must return at once and must not raise.
    The context managers are entered around the work that they are named after, so that
    context variables which they set are seen by it.
    """

    def start(self, stream_id: str) -> AbstractContextManager[Mapping[str, str]]:
        """A run is about to create its stream. The value is added to the stream's attributes
        if there is room for it."""
        return nullcontext({})

    def run(self, info: StreamInfo) -> AbstractContextManager[Note]:
        """This process begins to produce the stream. The note is called when it ends, with
        `done`, `error`, `stopped`, `handed_over`, `taken_over` or `lost`."""
        return nullcontext(_ignore)

    def takeover(self, info: StreamInfo, reason: str) -> AbstractContextManager[Note]:
        """This process is about to take the stream over, because its producer has `died`, has
        `handed_over` the stream, or was `stopped` before. The note tells `continued`,
        `stopped`, `error`, or `outrun` if another process was first."""
        return nullcontext(_ignore)

    def request(
        self, scope: Mapping[str, Any], send: Any, route: str | None
    ) -> AbstractContextManager[Any]:
        """A handler is about to answer an ASGI request; the value is the `send` to use.
        `route` is the path below the mount, without ids, if the handler has it."""
        return nullcontext(send)

    def served(self, info: StreamInfo) -> None:
        """The request that is being answered follows this stream."""

    def source_failed(self, exc: Exception) -> None:
        """The source of the run that is current raised `exc`."""

    def operated(
        self, store: object, operation: str, seconds: float, error: BaseException | None
    ) -> None:
        """A call of an instrumented store has ended, perhaps with `error`."""

    def appended(self, store: object, chunks: tuple[bytes, ...]) -> None:
        """An instrumented store has appended these chunks, perhaps none."""

    def delivered(self, store: object, info: StreamInfo) -> None:
        """A follower that is at the end of its stream got new records; `info.updated_at` is
        when the newest of them was appended, on the backend's clock."""

    def producer_lost(self, store: object) -> None:
        """The producer of a stream gave no sign of life in time. Once for each silence,
        however many followers of this process wait."""

    def retried(self, error: Exception) -> None:
        """A producer is about to repeat a call that failed with `error`."""

    def notices_interrupted(self, backend: str) -> None:
        """The connection that hears of changes elsewhere failed; another one is tried."""

    def polled(self, *, has_found: bool) -> None:
        """A store was asked about followed streams without a notice of a change, and there
        was or was not one."""

    def waited_for_connection(self, backend: str, seconds: float) -> None:
        """A call had to wait for a connection or a thread, and got it, or gave up."""

    def swept(self, backend: str, streams: int) -> None:
        """A store gave back the storage of so many expired streams, perhaps none."""


observer: Observer | None = None
"""The observer of this process. Read it as `observation.observer`, because it may change."""


def observe(new: Observer | None) -> None:
    """Tell `new` from now on, in place of the observer before; None ends observation."""
    global observer  # noqa: PLW0603  # one for the process, and cheap to read
    observer = new


def observed_start(stream_id: str) -> AbstractContextManager[Mapping[str, str]]:
    """`Observer.start` of the observer, if there is one."""
    return _NO_ATTRIBUTES if observer is None else observer.start(stream_id)


def observed_run(info: StreamInfo) -> AbstractContextManager[Note]:
    """`Observer.run` of the observer, if there is one."""
    return _NO_NOTE if observer is None else observer.run(info)


def observed_takeover(info: StreamInfo, reason: str) -> AbstractContextManager[Note]:
    """`Observer.takeover` of the observer, if there is one."""
    return _NO_NOTE if observer is None else observer.takeover(info, reason)


def _ignore(outcome: str) -> None:
    """Nothing notes the outcome."""


_NO_NOTE: AbstractContextManager[Note] = nullcontext(_ignore)
_NO_ATTRIBUTES: AbstractContextManager[Mapping[str, str]] = nullcontext({})
