"""Streams in an S3 bucket, for any number of processes."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from streamstores import limits as bounds
from streamstores.backends._fork import ForkGuard
from streamstores.backends._s3 import bucket_policies
from streamstores.backends._s3.background_tasks import BackgroundTasks, result_of
from streamstores.backends._s3.bucket import Bucket
from streamstores.backends._s3.change_requests import Delete, Expire
from streamstores.backends._s3.commit_queues import CommitQueues
from streamstores.backends._s3.expiry_calendar import ExpiryCalendar
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, RecordsMoved
from streamstores.backends._s3.object_keys import ObjectKeys
from streamstores.backends._s3.object_sweeper import ObjectSweeper
from streamstores.backends._s3.outcomes import repeatable
from streamstores.backends._s3.record_pages import read_records
from streamstores.backends._s3.s3_options import parse_s3_url
from streamstores.backends._s3.segment_chain import SegmentChain
from streamstores.backends._s3.segment_pollers import SegmentPollers
from streamstores.backends._s3.server_probe import ServerProbe
from streamstores.backends._s3.storage import Storage
from streamstores.backends._s3.stream_creation import StreamCreator
from streamstores.backends._s3.stream_heads import StreamHeads
from streamstores.backends._s3.stream_packer import StreamPacker
from streamstores.changes import Changes
from streamstores.errors import (
    InvalidRequest,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.methods import CommonMethods
from streamstores.mutations import check_creation, check_mutation
from streamstores.store import Page, State, StateLike, StreamInfo

__all__ = ["S3StreamStore"]

_LIST_WINDOW = 16  # streams looked up at once
_ROUNDS = 5


class S3StreamStore(CommonMethods):
    """Streams in an S3 bucket with conditional writes: AWS, MinIO, R2, Ceph.

    Durability: a mutation that returned is in the bucket, and as durable as the bucket. S3
    alone decides races of processes, by `If-None-Match` and `If-Match`; no machine's clock
    decides anything. Opening tries these conditions, by racing writers too, and refuses a
    server that does not keep them.

    Cost: an `append` is one PUT, and appends that arrive meanwhile go out together in the
    next PUT, so `limits.linger` suggests 0.2 seconds to writers. `create` is one PUT, two
    if the stream expires. `info` is one GET, as is `read`, besides the records. A stream that
    is followed in another process costs one GET every 0.2 to 1 seconds, whatever the number
    of followers. Opening takes 37 requests, by which the server's conditions are tried.
    docs/stores/s3.md has the prices.

    The URL is `s3://bucket/prefix?option=value`; everything below the prefix belongs to the
    store. Options, with times in seconds: `endpoint_url`, `region`, `access_key`,
    `secret_key`, `session_token` (by default boto3 looks for these as usual: environment,
    files, role), `path_style` (true or false), `timeout` of a call (10), `max_connections`
    (16, with a thread each), `linger` (0.2), `poll_min` and `poll_max` (0.2 and 0.75), and
    `grace` (3600): how long removed segments are kept for processes that have slept; it must
    be the same in all processes of a bucket. A boto3 `client` replaces the options of the
    connection, and the store never closes it.
    """

    capabilities: frozenset[str] = frozenset({"changes", "durable", "list", "multi_process"})

    _is_open = False
    _is_closed = False
    _sweeping: asyncio.Task[None] | None = None

    def __init__(
        self, url: str, *, client: Any | None = None, limits: Limits | None = None
    ) -> None:
        self._options = options = parse_s3_url(url, has_client=client is not None)
        self.limits: Limits = limits or Limits(linger=options.linger)
        self._fork_guard = ForkGuard()
        self._tasks = BackgroundTasks()
        self._opening: asyncio.Task[None] | None = None

        # These two refer to parts that are made below. They do not refer to the store: its
        # `__del__` would then never warn of a store that was not closed.
        def set_interest(stream_id: str, is_watched: bool) -> None:
            pollers.set_interest(stream_id, is_watched)

        def on_commit(known: KnownStream) -> None:
            pollers.committed(known.info.id)
            if known.is_final:
                packer.pack_soon(known.info.id)

        keys = ObjectKeys(options.prefix)
        bucket = Bucket(options, client)
        calendar = ExpiryCalendar(bucket, keys, options.grace)
        self._storage = Storage(bucket, keys, calendar, options.grace, options.timeout)
        self.changes: Changes = Changes(set_interest)
        self._streams = streams = KnownStreams(self._storage, self.changes)
        self._pollers = pollers = SegmentPollers(streams, options.poll_min, options.poll_max)
        heads = StreamHeads(streams)
        self._chain = chain = SegmentChain(streams)
        self._packer = packer = StreamPacker(streams, heads)
        self._sweeper = ObjectSweeper(streams, chain, heads, packer)
        self._creator = StreamCreator(streams, chain, heads)
        self._commits = CommitQueues(streams, chain, heads, self.limits, on_commit)

    @classmethod
    def from_url(cls, url: str) -> S3StreamStore:
        """The same as the constructor."""
        return cls(url)

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """As the contract says: one PUT, two if the stream expires."""
        creation = check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )
        creation = creation._replace(expires_at=_as_stored(creation.expires_at))
        await self._open()
        info = creation.begun(self._storage.clock.now())
        # It continues if the caller is cancelled, as its second try may have to find out
        # whether the first was applied.
        creating = self._tasks.start(self._creator.create(info, creation.chunks))
        cut_off = OutcomeUnknown(f"the store was closed while {stream_id!r} was created")
        known = await result_of(creating, cut_off)
        if known.is_final:
            self._packer.pack_soon(stream_id)
        self.changes.noticed(stream_id)
        return info

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
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        return await self._commits.submit(stream_id, mutation)

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """As the contract says. If the stream is packed meanwhile, it is read from there."""
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        known = await self._living(stream_id)
        for _ in range(_ROUNDS):
            info = known.info
            if offset >= info.tail:
                if offset > info.tail:
                    raise OffsetOutOfRange(stream_id, offset, tail=info.tail)
                return Page([], offset, info)
            try:
                records = await read_records(self._streams, known, offset, max_bytes)
                return Page(records, records[-1].end, info)
            except RecordsMoved:
                known = await self._streams.load(stream_id)
                if self._streams.has_expired(known):
                    raise StreamNotFound(stream_id) from None
        raise StoreUnavailable(f"the records of stream {stream_id!r} are being moved")

    async def info(self, stream_id: str) -> StreamInfo:
        return (await self._living(stream_id)).info

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        ttl = bounds.check_expiry(ttl, expires_at)
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        return await self._commits.submit(stream_id, Expire(ttl, _as_stored(expires_at)))

    async def delete(self, stream_id: str) -> None:
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        await self._commits.submit(stream_id, Delete())

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        bounds.check_prefix(prefix)
        await self._open()
        if len(prefix.encode()) > self.limits.stream_id_bytes:
            return
        folder = self._storage.keys.heads_of(prefix)
        async for page in self._storage.bucket.pages(folder):
            for start in range(0, len(page.keys), _LIST_WINDOW):
                for info in await self._infos(page.keys[start : start + _LIST_WINDOW]):
                    yield info

    async def sweep(self, *, limit: int = 1000) -> int:
        """As the contract says. It also looks for what killed writers left, which costs one
        LIST and up to three requests for each stream that is kept in segments."""
        bounds.check_sweep_limit(limit)
        await self._open()
        removed = await self._sweeper.sweep(limit)
        await self._sweeper.sweep_orphans()
        return removed

    def iam_policy(self) -> dict[str, Any]:
        """The fewest rights that the store's account needs, as a policy for AWS IAM."""
        return bucket_policies.iam_policy(self._options)

    def lifecycle_rule(self) -> dict[str, Any]:
        """A lifecycle rule that the bucket should have; see docs/stores/s3.md."""
        return bucket_policies.lifecycle_rule(self._options)

    async def aclose(self) -> None:
        """Finish the changes in flight, and close the client if the store made it.

        Takes at most the timeout of one call: what has not ended by then is given up on, and
        its callers get `OutcomeUnknown`.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._fork_guard.is_inherited:
            return  # the threads and tasks are those of the process that forked this one
        give_up_at = time.monotonic() + self._options.timeout

        def left() -> float:
            return max(give_up_at - time.monotonic(), 0.0)

        # First what makes requests by itself, then the changes in flight, the client last.
        self.changes.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._pollers.aclose()
        await self._commits.aclose(left())
        await self._tasks.aclose(left())
        await self._packer.aclose(left())
        await self._streams.aclose(left())
        await self._storage.bucket.aclose(left())

    async def __aenter__(self) -> S3StreamStore:
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Connect and check the server, once; after a failure the next call tries again."""
        self._fork_guard.check()
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        if self._is_open:
            return
        if self._opening is None or self._opening.done():
            self._fork_guard.opened()
            self._opening = self._tasks.start(self._connect())
        await result_of(self._opening, StoreUnavailable("the store was closed"))

    async def _connect(self) -> None:
        bucket = self._storage.bucket
        with repeatable():  # no stream is touched
            await bucket.connect()
            bucket.traits = await ServerProbe(bucket, self._storage.keys.probe()).run()
        if self._is_closed:  # meanwhile: nothing would stop the sweep
            raise StoreUnavailable("the store was closed")
        self._is_open = True
        self._sweeping = asyncio.get_running_loop().create_task(
            self._sweeper.sweep_until_cancelled(), name="streamstores: sweep"
        )

    async def _living(self, stream_id: str) -> KnownStream:
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        # Before the look: a write that may still arrive would contradict what the look shows.
        await self._chain.settle(stream_id)
        known = await self._streams.living(stream_id)
        self._packer.pack_if_abandoned(known)
        return known

    async def _infos(self, head_keys: Sequence[str]) -> Sequence[StreamInfo]:
        """The streams of these heads that are alive."""
        keys = self._storage.keys
        ids = [keys.id_of(key) for key in head_keys if keys.is_head(key)]
        found = await asyncio.gather(*map(self._info_or_none, ids))
        return [info for info in found if info is not None]

    async def _info_or_none(self, stream_id: str) -> StreamInfo | None:
        try:
            return (await self._streams.living(stream_id)).info
        except StreamNotFound:
            return None

    def __del__(self) -> None:
        if not self._is_open or self._is_closed or self._fork_guard.is_inherited:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        if self._sweeping is not None:
            with suppress(RuntimeError):  # its loop is closed
                self._sweeping.get_loop().call_soon_threadsafe(self._sweeping.cancel)

    def __repr__(self) -> str:
        return f"<S3StreamStore {self._options!r}>"


def _as_stored(moment: datetime | None) -> datetime | None:
    """The moment as it is stored and read again: in UTC, to the microsecond."""
    if moment is None:
        return None
    return bounds.from_microseconds(bounds.to_microseconds(moment))
