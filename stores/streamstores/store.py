"""The contract: what a stream store is, and what it promises.

A *stream* is a named, append-only sequence of bytes, kept as the *records* that were appended.
An *offset* is a position in these bytes: 0 is the start, and the *tail* is the end. A stream
has a *state* (`streaming`, `stopped`, `done` or `error`), a *version* that grows with each
mutation, *attributes* (a mapping of text to text that belongs to its users), and the times of
its creation and of its last mutation. A *mutation* is a `create`, an `append` or a `mark_done`.

The numbered clauses are the promise. `streamstores.conformance` has one or more checks for
each.

1.  **One mutation primitive.** An `append` adds records, changes the state and replaces the
    attributes, under the conditions `at` and `version`, in one step that happens wholly or not
    at all. With nothing to add or to change it only grows the version and sets `updated_at`: a
    heartbeat. Leases, fencing and sequence numbers of producers are built on `version` and
    `attributes`; no store knows of them.
2.  **Linearizable per stream.** When a mutation has returned, every `read`, `info` and `wait`
    that begins later sees it, in any process. Of racing appends with the same `at` or the same
    `version` exactly one succeeds, and the others raise `Conflict`. A stream is never seen
    half-created. A mutation that returns, even one that changes nothing, says that all earlier
    ones of the stream are stored with the same durability.
3.  **Order and bytes.** The records of a stream cover `[0, tail)` without gap or overlap, and
    their bytes come back exactly. A read that begins inside a record begins with the rest of
    it.
4.  **Waiting.** `wait` returns as soon as the version differs from `version`. A lost
    notification delays it by at most `limits.poll_interval`.
5.  **Following.** A follower ends normally exactly when the stream has left `streaming` and its
    last byte was yielded. A stream that was deleted or has expired raises `StreamNotFound`; it
    never looks finished.
6.  **States.** `streaming` can become `stopped`, `done` or `error`; `stopped` can become
    `streaming`, `done` or `error`; `done` and `error` are final. An append to a stream that is
    not streaming raises `StreamClosed`. To repeat a stop or a final state changes nothing.
7.  **Expiry.** A stream with a `ttl` expires that many seconds after its last mutation; with an
    `expires_at`, at that time; otherwise never. The clock is the backend's. From that moment
    on, within one second, every operation behaves as if the stream had never existed, and its
    id can be created anew, whether or not its storage was given back.
8.  **Limits.** Every bound is in `limits`. A refused call changes nothing. Ids are opaque:
    `../`, `*`, `{a}`, `%2F`, quotes and emoji are ordinary characters of an id.
9.  **Cancellation.** Any call can be cancelled and leaves the store usable. A cancelled append
    happened wholly or not at all.
10. **Many processes.** If the store declares `"multi_process"`, two store objects on one
    backend, in two processes, behave like a single store object.
11. **Ids begin anew.** A stream that is created under an old id shares nothing with the earlier
    stream of that id, its *namesake*: no byte, no waiter, no cached record. A version that was
    taken from one never matches the other, so a producer of the old stream cannot write into
    its namesake.

**Capabilities** are declared in `capabilities` and never inferred:

- `"durable"`: streams outlive the store object and its process;
- `"multi_process"`: clause 10 holds;
- `"list"`: `list` works;
- `"changes"`: followers may subscribe to the store's `Changes`; see `streamstores.changes`.

**Errors** say what the caller should do; see `streamstores.errors`. Every method can raise

- `InvalidRequest`, or its kind `LimitExceeded`, if the call is wrong. This is checked before
  the backend is asked;
- `StoreUnavailable` if the backend cannot be used and nothing was applied: retry freely;
- `OutcomeUnknown`, from a call that writes, if it may have been applied: read before retrying;
- `CorruptData` if the backend holds what no store wrote.
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
    """Append-only streams of bytes that can be read from any offset, and followed.

    The module's docstring is the contract. A store object belongs to one event loop. It
    connects on first use or in `async with`, and has to be closed by `aclose` or by leaving
    the `async with`.
    """

    limits: Limits
    """The bounds in force."""
    capabilities: frozenset[str]
    """What the store offers beyond the eleven methods."""

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

        The stream expires `ttl` seconds after its last mutation, or at `expires_at`, which
        mutations do not move; with neither it is kept. A time in the past is allowed: the
        stream is then gone at once.

        Raises `StreamExists`, with the info of the existing stream, if the id is in use. Not
        idempotent: after `OutcomeUnknown` a second `create` can raise `StreamExists` because
        the first was applied, perhaps only after an `info` that did not find the stream.
        Attributes that only this caller knows tell its own stream from another's.
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
        """Add records, change the state and replace the attributes, in one step (clause 1).

        Each chunk becomes a record; it must not be empty. `at` is the tail and `version` the
        version that the caller expects. `state` is the new state, `error` says why a stream
        becomes `"error"`, and `attributes` replace all attributes. Some uses:

        - `append(id, last, state="done")` is the atomic last word;
        - `append(id, state="streaming", version=v)` reopens a stopped stream;
        - `append(id)` is a heartbeat: it only grows the version.

        Returns the info right after this mutation; its `tail` is the new end.

        An append of the state that the stream already has, if that is not `streaming` and
        neither chunks nor attributes are given, changes nothing and returns the info, whatever
        `at` and `version` say. Otherwise it raises, in this order:

        - `StreamNotFound`;
        - `StreamClosed` if the stream is not streaming. A stopped stream takes `"streaming"`,
          with or without chunks, and `"done"` and `"error"` without chunks;
        - `Conflict` if `at` or `version` does not match.

        With `at` or `version` a repetition cannot apply twice: it raises `Conflict`. After
        `OutcomeUnknown` the lost append may still be applied later, until its condition no
        longer holds. To settle it, read `info`, and append (a heartbeat will do) with that
        version: when this has succeeded, a lost append with a `version` was either in that
        info or is never applied. An append without a condition cannot be settled.
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
        """Close a stream (`"done"`, `"error"`) or pause it (`"stopped"`).

        The same as an `append` of that state; `"streaming"` raises `InvalidRequest`.
        Idempotent.
        """
        ...

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """The records from `offset` on that are there now; never waits.

        They add up to at most `max_bytes`, but a first record that is longer comes alone. A
        store may return fewer. At the tail the page is empty. Records and info are one
        consistent snapshot.

        Raises `StreamNotFound`, and `OffsetOutOfRange` beyond the tail.
        """
        ...

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        """The info, as soon as its version is not `version`, or after `timeout` seconds.

        It may return early with the version unchanged. A timeout of 0 asks once; infinity is
        allowed.

        Raises `StreamNotFound`, also if the stream is deleted or expires during the wait.
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
        """Change when the stream expires: `ttl` seconds from now and sliding, at `expires_at`,
        or never if neither is given.

        A time in the past ends the stream now. The version stays, and waiters and followers
        are not woken unless the stream ends. Idempotent, and cheap enough for every read.

        Raises `StreamNotFound`.
        """
        ...

    async def delete(self, stream_id: str) -> None:
        """End the stream at once; its id is free. Raises `StreamNotFound`.

        Not idempotent: after `OutcomeUnknown` a second `delete` can raise `StreamNotFound`
        because the first was applied.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """Every stream whose id starts with `prefix`, once, in no set order.

        A stream that begins or ends during the listing may be in it or not. Offered if the
        store declares `"list"`.
        """
        ...

    async def sweep(self, *, limit: int = 1000) -> int:
        """Give back the storage of at most `limit` expired streams; how many it were.

        Correctness never needs it (clause 7), and stores sweep by themselves, too. A store
        whose backend removes expired streams by itself returns 0.
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
