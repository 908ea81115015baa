"""Creation of streams and forks, idempotent as the protocol's `PUT` is."""

from __future__ import annotations

from streamstores.errors import Conflict, OffsetOutOfRange, StreamExists, StreamNotFound
from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable import attributes as kept
from streamstores.http.durable.content import Content, chunks_of
from streamstores.http.durable.expiry import Expiry, set_expiry
from streamstores.http.durable.forks import Forks, records_below
from streamstores.http.durable.request_headers import CreateRequest, Fork
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["DurableStreamCreator"]

_COPYING_TTL = 60.0  # how long a copy outlives a process that died while making it
_COPY_BYTES = 4_194_304
_RETRY = {"Retry-After": "2"}


class DurableStreamCreator:
    """Creates streams in one store."""

    def __init__(self, store: StreamStore, forks: Forks) -> None:
        self._store = store
        self._forks = forks

    async def create(
        self, stream_id: str, creation: CreateRequest, body: bytes
    ) -> tuple[StreamInfo, bool]:
        """The stream, and whether it is new.

        Raises `HttpError`: 400, 404 or 409 for a source that cannot be forked as requested,
        409 for an existing stream with another configuration, and 413. Costs one store call
        for a new stream that is not a fork.
        """
        try:
            if creation.fork is not None:
                return await self._fork(stream_id, creation, creation.fork, body), True
            content = Content.of(creation.content_type)
            info = await self._store.create(
                stream_id,
                *chunks_of(content, body, self._store.limits),
                ttl=creation.expiry.ttl,
                expires_at=creation.expiry.at,
                attributes={kept.CONTENT_TYPE: content.header, **creation.expiry.attributes()},
                state=State.DONE if creation.is_closed else State.STREAMING,
            )
            return info, True
        except StreamExists as exc:
            existing = exc.info
        try:
            await self._check_existing(existing, creation)
        except StreamNotFound:  # it was a tombstone, which has just been removed
            return await self.create(stream_id, creation, body)
        return existing, False

    async def _check_existing(self, info: StreamInfo, creation: CreateRequest) -> None:
        """Raise `HttpError` unless the stream is what the request would have created.

        A fork whose creator died before the last step, which sets the expiry, gets it now.
        """
        if kept.is_copying(info):
            raise HttpError(503, "being_copied", "the fork is being copied", headers=_RETRY)
        if kept.is_being_removed(info):
            raise HttpError(503, "being_removed", "the path is not free yet", headers=_RETRY)
        try:
            await self._forks.check_exists(info)
        except HttpError as exc:
            raise HttpError(409, "gone", str(exc)) from exc
        if not _is_as_asked(info, creation):
            raise HttpError(409, "stream_exists", "a stream with another configuration exists")
        # A copy's own ttl is the mark of a creator that died between its last two steps.
        asked = Expiry.asked_of(info)
        if info.ttl == _COPYING_TTL and not asked.equals(Expiry.of(info)):
            await set_expiry(self._store, info.id, asked)

    async def _fork(
        self, stream_id: str, creation: CreateRequest, fork: Fork, body: bytes
    ) -> StreamInfo:
        """Copy the source's records below the fork point into a new stream, then the body.

        The fork is entered in the source's ledger before the first byte is copied.
        """
        # First, because a repeated PUT must find its fork even after the source is gone, and
        # must not enter it in the ledger a second time.
        await self._refuse_existing(stream_id)
        source = await self._source(fork.source_id)
        known = kept.ParsedStream.of(source)
        asked = Content.of(creation.content_type or known.content.header)
        if asked.mime != known.content.mime:
            message = f"the source is {known.content.mime}"
            raise HttpError(409, "content_type_mismatch", message)
        chunks = chunks_of(known.content, body, self._store.limits)
        anchor = source.tail if fork.offset is None else fork.offset
        end = await self._fork_point(known, anchor, fork.sub_offset)
        expiry = creation.expiry
        if expiry == Expiry():
            expiry = Expiry.of(source)
        attributes = {
            kept.CONTENT_TYPE: known.content.header,
            **expiry.attributes(),
            kept.FORKED_FROM: source.id,
            kept.FORK_OFFSET: str(anchor),
            kept.FORK_SUB_OFFSET: str(fork.sub_offset),
            kept.FORK_LEDGER: await self._forks.enter(source, stream_id),
        }
        state = State.DONE if creation.is_closed else State.STREAMING
        # The ledger has the fork before its first byte exists. A crash in between leaves an
        # entry that counts as dead.
        copy = _Copy(self._store, stream_id, expiry, attributes, state)
        try:
            async for record in records_below(self._store, source, end):
                await copy.add(record.data)
            for chunk in chunks:
                await copy.add(chunk)
        except (StreamNotFound, OffsetOutOfRange) as exc:
            raise HttpError(404, "source_not_found", "the stream to fork has gone") from exc
        return await copy.finish()

    async def _refuse_existing(self, stream_id: str) -> None:
        try:
            info = await self._store.info(stream_id)
        except StreamNotFound:
            return
        raise StreamExists(f"stream {stream_id!r} exists", info)

    async def _source(self, source_id: str) -> StreamInfo:
        try:
            source = await self._store.info(source_id)
            await self._forks.check_exists(source)
        except StreamNotFound as exc:
            raise HttpError(404, "source_not_found", "no such stream to fork") from exc
        except HttpError as exc:
            raise HttpError(409, "source_gone", "the stream to fork was deleted") from exc
        return source

    async def _fork_point(self, source: kept.ParsedStream, anchor: int, sub_offset: int) -> int:
        """The byte offset up to which the fork has its source's bytes."""
        tail = source.info.tail
        point = anchor
        if anchor <= tail and sub_offset and source.content.is_json:
            left = sub_offset
            async for record in records_below(self._store, source.info, tail, anchor):
                point = record.end
                left -= 1
                if left == 0:
                    break
            point += left  # beyond the tail if there are too few messages
        else:
            point += sub_offset
        if point > tail:
            raise HttpError(400, "invalid_fork_offset", "the source does not reach so far")
        return point


class _Copy:
    """A fork that is being copied.

    One `create` makes it if one append can hold all its records. Otherwise it grows in steps,
    hidden from clients and with a short ttl until the last step.
    """

    def __init__(
        self,
        store: StreamStore,
        stream_id: str,
        expiry: Expiry,
        attributes: dict[str, str],
        state: State,
    ) -> None:
        self._store = store
        self._stream_id = stream_id
        self._expiry = expiry
        self._attributes = attributes
        self._state = state
        self._info: StreamInfo | None = None
        self._chunks: list[bytes] = []
        self._bytes = 0

    async def add(self, chunk: bytes) -> None:
        limits = self._store.limits
        is_full = self._bytes + len(chunk) > min(_COPY_BYTES, limits.append_bytes)
        if self._chunks and (is_full or len(self._chunks) >= limits.append_records):
            await self._flush()
        self._chunks.append(chunk)
        self._bytes += len(chunk)

    async def finish(self) -> StreamInfo:
        """Make the fork visible, with its real attributes, state and expiry."""
        if self._info is None:
            return await self._store.create(
                self._stream_id,
                *self._chunks,
                ttl=self._expiry.ttl,
                expires_at=self._expiry.at,
                attributes=self._attributes,
                state=self._state,
            )
        is_open = self._state is State.STREAMING
        # The attributes go without COPYING, and so the fork becomes visible, whole. The expiry
        # comes after it, as the only step that a repeated PUT can still make.
        await self._append(self._attributes, None if is_open else self._state)
        return await set_expiry(self._store, self._stream_id, self._expiry)

    async def _flush(self) -> None:
        if self._info is None:
            self._info = await self._store.create(
                self._stream_id,
                *self._chunks,
                ttl=_COPYING_TTL,
                attributes={**self._attributes, kept.COPYING: "1"},
            )
        else:
            await self._append(None, None)
        self._chunks, self._bytes = [], 0

    async def _append(self, attributes: dict[str, str] | None, state: State | None) -> None:
        assert self._info is not None, "the copy has begun"
        try:
            self._info = await self._store.append(
                self._stream_id,
                *self._chunks,
                version=self._info.version,
                attributes=attributes,
                state=state,
            )
        except Conflict as exc:  # it expired meanwhile, and a namesake was created
            raise StreamNotFound(self._stream_id) from exc


def _is_as_asked(info: StreamInfo, creation: CreateRequest) -> bool:
    """Whether the request would have created this stream: the same source, content type,
    closed state and expiry."""
    fork = creation.fork
    if not _is_this_fork(info, fork):
        return False
    content = kept.ParsedStream.of(info).content
    default = None if fork is None else content.header
    if Content.of(creation.content_type or default).mime != content.mime:
        return False
    if creation.is_closed is not (info.state is not State.STREAMING):
        return False
    if fork is not None and creation.expiry == Expiry():
        return True  # it inherited its source's expiry
    return creation.expiry.equals(Expiry.asked_of(info))


def _is_this_fork(info: StreamInfo, fork: Fork | None) -> bool:
    attributes = info.attributes
    if fork is None:
        return kept.FORKED_FROM not in attributes
    if attributes.get(kept.FORKED_FROM) != fork.source_id:
        return False
    if attributes[kept.FORK_SUB_OFFSET] != str(fork.sub_offset):
        return False
    return fork.offset is None or attributes[kept.FORK_OFFSET] == str(fork.offset)
