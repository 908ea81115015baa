"""A store for assistant-stream's resumable streams (assistant-ui), on any store of ours.

Written against assistant-stream 0.0.36, and the leases of the versions after it. It needs the
extra `assistant-stream`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from streamstores.errors import (
    Conflict,
    ProducerLost,
    StreamClosed,
    StreamExists,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.follow import Follower, follow
from streamstores.limits import check_seconds
from streamstores.store import Record, State, StreamInfo, StreamStore
from streamstores.writer import StreamWriter

try:
    from assistant_stream.resumable import (
        CancellationSignal,
        ResumableStreamEntry,
        ResumableStreamError,
        validate_stream_id,
    )
except ModuleNotFoundError as _missing_module:  # pragma: no cover
    raise ImportError(
        f"streamstores.integrations.assistant_stream needs {_missing_module.name}: "
        'pip install "streamstores[assistant-stream]"',
        name=_missing_module.name,
    ) from _missing_module

__all__ = ["Acquisition", "AssistantStreamStore", "Lease"]

_LEASE = "lease"
_SILENT_HEARTBEATS = 3
_LOST = "the producer of the stream was lost"


class Lease(NamedTuple):
    """The right to produce one stream."""

    token: str


class Acquisition(NamedTuple):
    """Whether the caller is to produce a stream, and its right to do so."""

    role: Literal["producer", "consumer"]
    lease: Lease | None


class AssistantStreamStore:
    """A `ResumableStreamStore` for `create_resumable_stream_context(store=…)`.

        context = create_resumable_stream_context(store=AssistantStreamStore(store))

    Unlike the stores of assistant-stream it batches appends, wakes readers at once instead of
    every 100 ms, and notices a producer that has died: after three `heartbeat` seconds without
    a sign of life the stream ends in an error, and no reader hangs or takes it for complete.

    Ids begin with `prefix` in the store. `ttl` is in seconds, for callers that name none. A
    stream is produced by the object that acquired it. One object belongs to one event loop.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        prefix: str = "assistant-stream/",
        ttl: float = 86_400.0,
        heartbeat: float = 5.0,
    ) -> None:
        self._store = store
        self._prefix = prefix
        check_seconds(ttl, "ttl")
        check_seconds(heartbeat, "heartbeat")
        self._ttl = ttl
        self._heartbeat = heartbeat
        self._writers: dict[str, tuple[StreamWriter, Lease]] = {}

    async def acquire(
        self, stream_id: str, *, ttl_ms: int | None = None
    ) -> Literal["producer", "consumer"]:
        """Begin the stream, or find that it exists: of racing callers one is the producer."""
        return (await self.acquire_lease(stream_id, ttl_ms=ttl_ms)).role

    async def acquire_lease(self, stream_id: str, *, ttl_ms: int | None = None) -> Acquisition:
        """As `acquire`, with a lease for `append` and `finalize`."""
        name = self._name(stream_id)
        lease = Lease(secrets.token_urlsafe(16))
        try:
            info = await self._store.create(
                name,
                # At least a second, because stores refuse a ttl of 0.
                ttl=self._ttl if ttl_ms is None else max(ttl_ms / 1000, 1.0),
                attributes={_LEASE: lease.token},
            )
        except StreamExists:
            return Acquisition("consumer", None)
        writer = StreamWriter(self._store, name, info=info, heartbeat=self._heartbeat)
        writer.start()
        self._writers[stream_id] = writer, lease
        return Acquisition("producer", lease)

    async def append(self, stream_id: str, chunk: bytes, lease: Any = None) -> None:
        """Accept a chunk; it is stored soon, and before `finalize` returns.

        Raises `ResumableStreamError` (`finalized`) if the stream has ended or `lease` is not
        that of its producer.
        """
        writer = self._writer(stream_id, lease)
        try:
            if writer is not None:
                await writer.write(chunk)
            else:
                info = await self._held_elsewhere(stream_id, lease)
                # Without a version: the caller says by its lease that it is the producer, and
                # has no earlier answer whose version it could give.
                await self._store.append(info.id, chunk)
        except (Conflict, StreamClosed) as exc:
            raise _finalized(stream_id) from exc
        except StreamNotFound as exc:
            raise _missing(stream_id) from exc

    async def finalize(
        self,
        stream_id: str,
        status: Literal["done", "error"],
        error: str | None = None,
        lease: Any = None,
    ) -> None:
        """End the stream, when all its chunks are stored. A stream that has ended stays so."""
        state = State.ERROR if status == "error" else State.DONE
        text = (error or "Stream errored") if state is State.ERROR else None
        writer = self._writer(stream_id, lease)
        try:
            if writer is not None:
                del self._writers[stream_id]
                await writer.aclose(state, error=text)
            else:
                info = await self._held_elsewhere(stream_id, lease)
                await self._store.mark_done(info.id, state, error=text)
        except (Conflict, StreamClosed):
            return
        except StreamNotFound as exc:
            raise _missing(stream_id) from exc

    async def read(
        self, stream_id: str, cursor: str, signal: CancellationSignal
    ) -> AsyncGenerator[ResumableStreamEntry, None]:
        """The chunks after `cursor` (`""` is the start), then live, to the end.

        Raises `RuntimeError` if the stream does not exist, vanishes, ends in an error, or has
        lost its producer. Ends early when `signal` is set.
        """
        follower = follow(
            self._store,
            self._name(stream_id),
            _offset_of(cursor),
            producer_timeout=_SILENT_HEARTBEATS * self._heartbeat,
        )
        # A single task for the whole read: waiting for the signal anew would cost a task for
        # each batch.
        left = asyncio.ensure_future(signal.wait())
        try:
            while records := await self._batch(follower, stream_id, left):
                for offset, data in records:
                    yield ResumableStreamEntry(cursor=str(offset + len(data)), chunk=data)
            info = follower.info
            if not left.done() and info is not None and info.state is State.ERROR:
                raise RuntimeError(info.error or "Stream errored")
        finally:
            left.cancel()
            await follower.aclose()

    async def status(self, stream_id: str) -> Literal["streaming", "done", "error", "missing"]:
        """A stopped stream is `done`: it has no more to say."""
        try:
            info = await self._store.info(self._name(stream_id))
        except StreamNotFound:
            return "missing"
        if info.state is State.STREAMING:
            return "streaming"
        return "error" if info.state is State.ERROR else "done"

    async def delete(self, stream_id: str) -> None:
        """Delete the stream, if it exists. Its readers get an error."""
        name = self._name(stream_id)
        if stream_id in self._writers:
            writer, _ = self._writers.pop(stream_id)
            await writer.abort()
        with suppress(StreamNotFound):
            await self._store.delete(name)

    async def aclose(self) -> None:
        """End the streams that are produced here in an error; the store stays open."""
        for stream_id, (writer, _) in list(self._writers.items()):
            del self._writers[stream_id]
            with suppress(StreamStoreError):
                await writer.aclose(State.ERROR, error="the producing process has ended")

    def _name(self, stream_id: str) -> str:
        validate_stream_id(stream_id)
        return self._prefix + stream_id

    def _writer(self, stream_id: str, lease: Any) -> StreamWriter | None:
        """The writer of a stream that this object produces."""
        validate_stream_id(stream_id)
        if stream_id not in self._writers:
            return None
        writer, held = self._writers[stream_id]
        return writer if lease is None or lease.token == held.token else None

    async def _held_elsewhere(self, stream_id: str, lease: Any) -> StreamInfo:
        """A stream that another object has acquired, perhaps with this lease."""
        info = await self._store.info(self._name(stream_id))
        if lease is not None and lease.token != info.attributes.get(_LEASE):
            raise _finalized(stream_id)
        return info

    async def _batch(
        self, follower: Follower, stream_id: str, left: asyncio.Future[bool]
    ) -> list[Record]:
        """The next records; empty at the end, or when the reader has left."""
        batch = asyncio.ensure_future(follower.batch())
        try:
            ends: set[asyncio.Future[Any]] = {batch, left}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return await batch if batch.done() else []
        except StreamNotFound as exc:
            raise _missing(stream_id) from exc
        except ProducerLost as exc:
            await self._end_lost(exc.info)
            raise RuntimeError(_LOST) from exc
        finally:
            # Only a batch that was left: its task must have ended before the follower is closed
            # under it.
            if not batch.done():
                batch.cancel()
                with suppress(asyncio.CancelledError):
                    await batch

    async def _end_lost(self, info: StreamInfo) -> None:
        """So that later readers learn of it at once. A producer that lives wins the race."""
        with suppress(StreamStoreError):
            await self._store.mark_done(info.id, State.ERROR, error=_LOST, version=info.version)


def _offset_of(cursor: str) -> int:
    if cursor == "":
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 20):
        raise ValueError(f"not a cursor of this store: {cursor!r}")
    return int(cursor)


def _missing(stream_id: str) -> RuntimeError:
    return RuntimeError(f"Stream not found: {stream_id}")


def _finalized(stream_id: str) -> ResumableStreamError:
    return ResumableStreamError("finalized", f"Stream already finalized: {stream_id}")
