"""The contract: what a stream store is, and what it promises.

A *stream* is a named, append-only sequence of bytes, kept as the *records* that were
appended. An *offset* is a byte position: 0 is the start, `tail` the end. The numbered
clauses below are the promise; `streamstores.conformance` holds a check for each.

1.  **One mutation primitive.** An `append` (chunks, state, attributes, under `at` and
    `version`) happens wholly or not at all, in one step.
2.  **Linearizable per stream.** When a mutation has returned, every later `read`, `info`
    and `wait` of any process sees it. Of racing appends with the same `at` or `version`
    exactly one wins. A stream is never seen half-created.
3.  **Order and bytes.** Records tile `[0, tail)` and bytes come back exactly. A read inside
    a record begins with the rest of that record.
4.  **Waiting.** `wait` returns as soon as the version differs; a lost notification costs at
    most `limits.poll_interval`.
5.  **Following** ends normally exactly when the stream has left `streaming` and its last
    byte was yielded. A vanished stream never looks like a finished one.
6.  **States.** streaming → stopped | done | error; stopped → streaming | done | error;
    done and error are final.
7.  **Expiry.** A `ttl` slides with each mutation, on the backend's clock. From `expires_at`
    (within one second) the stream has never existed, whether or not `sweep` has run.
8.  **Limits.** Every bound is in `Limits`. A refused call changes nothing, and ids never
    escape their namespace.
9.  **Cancellation** of any call leaves the store healthy; a cancelled append happened
    wholly or not at all.
10. **Many processes.** Two stores on one backend behave as one, where the store declares
    `"multi_process"`.
11. **Ids begin anew.** A stream created under an old id shares nothing with its namesake:
    no byte, no waiter, no version.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

from streamstores.limits import Limits
from streamstores.values import Page, Record, State, StateLike, StreamInfo

__all__ = ["Page", "Record", "State", "StateLike", "StreamInfo", "StreamStore"]


@runtime_checkable
class StreamStore(Protocol):
    """Where streams are kept: append, read from an offset, mark done, expire.

    Every method raises `StoreUnavailable` when its backend cannot be used and nothing was
    applied, `OutcomeUnknown` when a mutation may have been applied, and `CorruptData` when
    the backend holds what no store wrote. `InvalidRequest` and `LimitExceeded` come before
    the backend is asked. One store object belongs to one event loop.

    `limits` are the bounds in force. `capabilities` declares what is offered, never to be
    inferred: `"durable"` (streams outlive the process), `"multi_process"` (clause 10),
    `"list"`.
    """

    limits: Limits
    capabilities: frozenset[str]

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """Begin a stream, with its first records and its state, in one step.

        `ttl` seconds after its last mutation the stream expires; `expires_at` sets an end
        that mutations do not move; with neither it is kept.

        Raises `StreamExists` if the id is alive. Not idempotent: after `OutcomeUnknown`,
        `info` tells.
        """
        ...

    async def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Add records, change state and replace attributes, in one step (clause 1).

        Each chunk becomes one record. `at` is the tail the caller expects, `version` the
        version. `append(id, last, state="done")` is the atomic last word;
        `append(id, state="streaming", version=v)` reopens a stopped stream; with nothing
        at all it only grows the version: a heartbeat. `error` goes with `state="error"`.
        To set the state the stream already has, other than streaming, with no chunks and no
        attributes, changes nothing, whatever `at` and `version` say.

        Returns the info right after this mutation; its `tail` is the new end.
        Raises, in this order: `StreamNotFound`; `StreamClosed` where the stream is not
        streaming, unless it is stopped and `state` is `"streaming"`, or `"done"` or
        `"error"` with no chunks; `Conflict` where `at` or `version` does not match.
        Idempotent where `at` or `version` is given: a repeat gets `Conflict`.
        """
        ...

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        """End (`"done"`, `"error"`) or pause (`"stopped"`) a stream: an `append` of a state.

        Idempotent. Raises as `append` does.
        """
        ...

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """What there is from `offset` on, without waiting.

        The records add up to at most `max_bytes`, except that a first record longer than
        that comes alone. At the tail the page is empty.

        Raises `StreamNotFound`, and `OffsetOutOfRange` beyond the tail.
        """
        ...

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        """The info as soon as the version is not `version`, or after `timeout` seconds.

        May return early with the version unchanged. A timeout of 0 asks once.

        Raises `StreamNotFound`, also when the stream is deleted or expires meanwhile.
        """
        ...

    async def info(self, stream_id: str) -> StreamInfo:
        """What the stream is now. Raises `StreamNotFound`."""
        ...

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        """Change when the stream ends: `ttl` seconds from now and sliding, at a set time, or
        with neither, never.

        A time in the past ends it now. The version stays. Idempotent, and cheap enough to
        call on every read. Raises `StreamNotFound`.
        """
        ...

    async def delete(self, stream_id: str) -> None:
        """End the stream at once; its id is free. Raises `StreamNotFound`."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """Every living stream whose id starts with `prefix`, once, in no set order.

        One that is created or ends while the listing runs may or may not appear.
        Offered where `capabilities` has `"list"`.
        """
        ...

    async def sweep(self, *, limit: int = 1000) -> int:
        """Give back the storage of at most `limit` expired streams; returns how many.

        Never needed for correctness (clause 7); stores do it by themselves too.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and tasks; a client that was passed in stays open.

        Idempotent. Waiters and followers get `StoreUnavailable`; later calls raise
        `InvalidRequest`.
        """
        ...

    async def __aenter__(self) -> StreamStore: ...

    async def __aexit__(self, *exc_info: object) -> None: ...
