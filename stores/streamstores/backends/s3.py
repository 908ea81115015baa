"""Streams in an S3 bucket, for any number of processes."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from streamstores import limits as bounds
from streamstores.backends._s3 import options as s3_options
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.commits import Commits, Delete
from streamstores.backends._s3.creating import Creator
from streamstores.backends._s3.heads import Expire, Heads
from streamstores.backends._s3.keys import Keys
from streamstores.backends._s3.packing import Packer
from streamstores.backends._s3.polling import Pollers
from streamstores.backends._s3.reading import read_records
from streamstores.backends._s3.streams import Known, Moved, Streams
from streamstores.backends._s3.sweeping import Sweeper
from streamstores.backends._s3.tasks import Tasks
from streamstores.backends._s3.transport import Bucket
from streamstores.changes import Changes
from streamstores.errors import (
    InvalidRequest,
    OffsetOutOfRange,
    StoreUnavailable,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.mutations import check_end_state, check_mutation, check_state
from streamstores.store import Page, State, StateLike, StreamInfo

__all__ = ["S3StreamStore"]

_LIST_WINDOW = 16  # streams looked up at once
_ROUNDS = 5


class S3StreamStore:
    """Streams in an S3 bucket with conditional writes: AWS, MinIO, R2, Ceph.

    What survives what: a mutation that returned is in the bucket, and as durable as that.
    Of racing processes S3 alone decides, by `If-None-Match` and `If-Match`; clocks of
    machines decide nothing. A server that ignores these conditions is refused on opening.

    What it costs: an `append` is one PUT, and those that arrive while one is in flight go
    out together in the next, so `limits.linger` suggests 0.2 seconds to writers; `create`
    is one PUT, two where the stream expires; `info`, and `read` besides the records, one
    GET; a watched stream of another process one GET every 0.2 to 1 seconds, whatever the
    number of followers. Opening takes five requests. docs/stores/s3.md has it in dollars.

    The URL is `s3://bucket/prefix?option=value`; everything below the prefix is the store's
    own. Options, with times in seconds: `endpoint_url`, `region`, `access_key`,
    `secret_key`, `session_token` (by default boto3 finds these as ever: environment,
    files, role), `path_style` (true or false), `timeout` of a call (10), `max_connections`
    (16, with a thread each), `linger` (0.2), `poll_min` and `poll_max` (0.2 and 0.75), and
    `grace` (3600): how long removed segments are kept for processes that have slept; the
    same in all processes of a bucket. A boto3 `client` takes the place of the options of the
    connection, and is never closed here.
    """

    capabilities = frozenset({"durable", "multi_process", "list"})

    _is_open = False
    _is_closed = False
    _housekeeper: asyncio.Task[None] | None = None

    def __init__(
        self, url: str, *, client: Any | None = None, limits: Limits | None = None
    ) -> None:
        options = s3_options.parse(url)
        if client is not None:
            s3_options.check_with_client(url)
        self._options = options
        self.limits = limits or Limits(linger=options.linger)
        self._keys = keys = Keys(options.prefix)
        self._bucket = bucket = Bucket(options, client)

        def on_watched(stream_id: str, is_watched: bool) -> None:  # without the store
            pollers.watched(stream_id, is_watched)

        self.changes = Changes(on_watched)
        self._streams = streams = Streams(bucket, keys, self.changes, options.grace)
        self._pollers = pollers = Pollers(
            streams, self.changes, options.poll_min, options.poll_max
        )
        calendar = Calendar(bucket, keys, options.grace)
        heads = Heads(streams, bucket, keys, calendar)
        self._commits = commits = Commits(streams, bucket, keys, calendar, heads, self.limits)
        self._creator = Creator(streams, bucket, keys, calendar, commits, heads)
        self._packer = packer = Packer(streams, bucket, keys, calendar, heads)
        self._sweeper = Sweeper(
            streams, bucket, keys, calendar, commits, heads, packer, options.grace
        )
        commits.on_commit = _Committed(pollers, packer)
        self._tasks = Tasks()
        self._opening: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> S3StreamStore:
        """As the constructor."""
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
        bounds.check_stream_id(stream_id, self.limits)
        ttl = bounds.check_expiry(ttl, expires_at)
        chunks = bounds.check_chunks(chunks, self.limits)
        attributes = bounds.check_attributes(attributes, self.limits)
        state = check_state(state)
        await self._open()
        now = self._bucket.clock.now()
        info = StreamInfo(
            stream_id,
            state,
            sum(map(len, chunks)),
            bounds.first_version(),
            None,
            attributes,
            now,
            ttl,
            _in_utc(expires_at) if ttl is None else now + timedelta(seconds=ttl),
        )
        # A cancelled one goes on: a second PUT of it may have to tell whose the first was.
        beginning = self._tasks.start(self._creator.create(info, chunks))
        known = await asyncio.shield(beginning)
        if known.is_final:
            self._packer.soon(stream_id)
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

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        return await self.append(
            stream_id, state=check_end_state(state), error=error, version=version
        )

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
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
                records = await read_records(
                    self._streams, self._bucket, known, offset, max_bytes
                )
                return Page(records, records[-1].end, info)
            except Moved:
                known = await self._streams.load(stream_id)
                if self._streams.has_ended(known):
                    raise StreamNotFound(stream_id) from None
        raise StoreUnavailable(f"the records of stream {stream_id!r} are being moved")

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        bounds.check_seconds(timeout, "timeout")
        version = bounds.check_version(version)
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        return await self.changes.wait(
            self.info,
            stream_id,
            version=version,
            timeout=timeout,
            poll_interval=self.limits.poll_interval,
        )

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
        return await self._commits.submit(stream_id, Expire(ttl, _in_utc(expires_at)))

    async def delete(self, stream_id: str) -> None:
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        await self._commits.submit(stream_id, Delete())

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        bounds.check_prefix(prefix)
        await self._open()
        if len(prefix.encode()) > self.limits.stream_id_bytes:
            return
        folder = self._keys.heads_of(prefix)
        token = None
        while True:
            listing = await self._bucket.list(folder, token=token)
            for start in range(0, len(listing.keys), _LIST_WINDOW):
                for info in await self._infos(listing.keys[start : start + _LIST_WINDOW]):
                    yield info
            token = listing.next_token
            if token is None:
                return

    async def sweep(self, *, limit: int = 1000) -> int:
        """As the contract says; and looks for what killed writers left, which costs one LIST
        and up to three requests for each stream that is kept in segments."""
        bounds.check_sweep_limit(limit)
        await self._open()
        ended = await self._sweeper.sweep(limit)
        await self._sweeper.scan()
        return ended

    def iam_policy(self) -> dict[str, Any]:
        """The least that the store's account needs, as a policy for AWS IAM."""
        return s3_options.iam_policy(self._options)

    def lifecycle_rule(self) -> dict[str, Any]:
        """A rule that the bucket should have; see docs/stores/s3.md."""
        return s3_options.lifecycle_rule(self._options)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.changes.close()
        await self._stop_housekeeping()
        await self._pollers.aclose()
        await self._commits.aclose()
        await self._tasks.aclose()
        await self._packer.aclose(self._options.timeout)
        await self._streams.aclose()
        await self._bucket.aclose()

    async def _stop_housekeeping(self) -> None:
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.wait([self._housekeeper])

    async def __aenter__(self) -> S3StreamStore:
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Connect and check the server, once; after a failure the next call tries again."""
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        if self._is_open:
            return
        if self._opening is None or self._opening.done():
            self._opening = self._tasks.start(self._connect())
        await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        await self._bucket.connect()
        await self._bucket.check(self._keys.probe())
        self._is_open = True
        name = "streamstores: sweep"
        loop = asyncio.get_running_loop()
        self._housekeeper = loop.create_task(self._sweeper.run(), name=name)

    async def _living(self, stream_id: str) -> Known:
        bounds.check_stream_id(stream_id, self.limits)
        await self._open()
        known = await self._streams.living(stream_id)
        self._packer.seen(known)
        return known

    async def _infos(self, head_keys: Sequence[str]) -> Sequence[StreamInfo]:
        """The streams of these heads that live."""
        ids = [self._keys.id_of(key) for key in head_keys if self._keys.is_head(key)]
        found = await asyncio.gather(*map(self._info_or_none, ids))
        return [info for info in found if info is not None]

    async def _info_or_none(self, stream_id: str) -> StreamInfo | None:
        try:
            return (await self._streams.living(stream_id)).info
        except StreamNotFound:
            return None

    def __del__(self) -> None:
        if not self._is_open or self._is_closed:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        if self._housekeeper is not None:
            with suppress(RuntimeError):  # its loop is closed
                self._housekeeper.get_loop().call_soon_threadsafe(self._housekeeper.cancel)

    def __repr__(self) -> str:
        return f"<S3StreamStore {self._options!r}>"


class _Committed:
    """What follows a commit of this process. It does not hold the store."""

    def __init__(self, pollers: Pollers, packer: Packer) -> None:
        self._pollers = pollers
        self._packer = packer

    def __call__(self, known: Known) -> None:
        self._pollers.committed(known.info.id)
        if known.is_final:
            self._packer.soon(known.info.id)


def _in_utc(moment: datetime | None) -> datetime | None:
    """The moment as it is stored and read again."""
    if moment is None:
        return None
    return bounds.from_microseconds(bounds.to_microseconds(moment))
