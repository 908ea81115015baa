"""Reads: catch-up, which answers at once, and long-poll, which waits for the next records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamstores.errors import OffsetOutOfRange, StreamNotFound
from streamstores.follow import Follower, follow
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.gate import Gate
from streamstores.http.durable.attributes import CONTENT_TYPE
from streamstores.http.durable.content import Content
from streamstores.http.durable.expiry import kept_alive, touch
from streamstores.http.durable.forks import Forks
from streamstores.http.durable.offsets import format_offset, next_cursor
from streamstores.http.durable.request_headers import ReadRequest, RequestHeaders
from streamstores.http.durable.responses import HeaderList, Responses
from streamstores.limits import to_microseconds
from streamstores.store import Page, Record, State, StreamInfo, StreamStore

__all__ = ["Reader", "metadata_of", "same_stream"]

_TRUE = b"true"

PAGE_BYTES = 1_048_576
"""About the longest body of a response to a catch-up read."""


class Reader:
    """The reads of one process. It keeps no state between them."""

    def __init__(
        self,
        store: StreamStore,
        forks: Forks,
        responses: Responses,
        *,
        cache_control: bytes,
        long_poll_seconds: float,
        gate: Gate,
    ) -> None:
        self._store = store
        self._forks = forks
        self._responses = responses
        self._cache_control = cache_control
        self._long_poll_seconds = long_poll_seconds
        self._gate = gate

    async def head(self, exchange: Exchange, stream_id: str) -> None:
        """Answer with the stream's headers. One store call."""
        info = await self._existing(stream_id)
        headers = metadata_of(info)
        headers.append((b"cache-control", b"no-store"))
        headers.append((b"etag", _etag(info, "-1", info.tail)))
        await self._responses.send(exchange.send, 200, headers)

    async def catch_up(
        self, exchange: Exchange, headers: RequestHeaders, stream_id: str, reading: ReadRequest
    ) -> None:
        """Answer with the records from the offset, up to a megabyte of them.

        One store call, and another if the read restarts a ttl.
        """
        page = await self.page(stream_id, reading.offset)
        if reading.offset is None:
            answer = _headers_of(page.info, page.info.tail)
            answer.append((b"cache-control", b"no-store"))
            body = Content.of(page.info.attributes.get(CONTENT_TYPE)).body_of(())
            await self._responses.send(exchange.send, 200, answer, body)
            return
        await self._send(exchange, headers, page.info, page.records, page.next_offset, reading)

    async def long_poll(
        self, exchange: Exchange, headers: RequestHeaders, stream_id: str, reading: ReadRequest
    ) -> None:
        """Answer with the records from the offset, or with the next ones that come.

        204 if none comes in time. One store call if there are records; requests that wait
        share their reads.
        """
        page = await self.page(stream_id, reading.offset)
        info, records, end = page.info, page.records, page.next_offset
        if not records and info.state is State.STREAMING:
            async with follow(self._store, stream_id, end) as follower:
                async with kept_alive(self._store, info, self._long_poll_seconds):
                    records = await self._first_of(exchange, follower)
                info = same_stream(info, follower.info)
                end = follower.offset
        if records:
            await self._send(exchange, headers, info, records, end, reading, is_live=True)
            return
        answer = _headers_of(info, end)
        answer.append((b"stream-cursor", b"%d" % next_cursor(reading.cursor)))
        answer.append((b"cache-control", b"no-store"))
        await self._responses.send(exchange.send, 204, answer)

    async def page(
        self, stream_id: str, offset: int | None, *, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """The records from the offset on; None means the tail. Restarts the stream's ttl."""
        if offset is None:
            info = await self._existing(stream_id)
            page = Page([], info.tail, info)
        else:
            try:
                page = await self._store.read(stream_id, offset, max_bytes=max_bytes)
            except OffsetOutOfRange as exc:
                # A tombstone and a hidden copy have a tail too, and must not answer with it.
                await self._forks.check_exists(await self._store.info(stream_id))
                message = "the offset is beyond the end of the stream"
                raise HttpError(400, "offset_out_of_range", message) from exc
            await self._forks.check_exists(page.info)
        await touch(self._store, page.info)
        return page

    async def _existing(self, stream_id: str) -> StreamInfo:
        info = await self._store.info(stream_id)
        await self._forks.check_exists(info)
        return info

    async def _first_of(self, exchange: Exchange, follower: Follower) -> list[Record]:
        """The next records. None come if the time is up, the stream is closed, the client has
        left, or the server ends."""
        batch = asyncio.ensure_future(follower.batch())
        leaving = asyncio.ensure_future(_until_disconnected(exchange))
        closing = asyncio.ensure_future(self._gate.wait_closed())
        waits = {batch, leaving, closing}
        try:
            await asyncio.wait(
                waits, timeout=self._long_poll_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return batch.result() if batch.done() else []
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    async def _send(
        self,
        exchange: Exchange,
        headers: RequestHeaders,
        info: StreamInfo,
        records: Sequence[Record],
        end: int,
        reading: ReadRequest,
        *,
        is_live: bool = False,
    ) -> None:
        """Answer 200 with the records, or 304 if the client's ETag still matches."""
        etag = _etag(info, reading.start, end)
        answer = _headers_of(info, end)
        answer.append((b"etag", etag))
        # An empty response must be checked each time: there may be records in a moment.
        answer.append((b"cache-control", self._cache_control if records else b"no-cache"))
        if is_live:
            answer.append((b"stream-cursor", b"%d" % next_cursor(reading.cursor)))
        if _matches(headers.get(b"if-none-match"), etag):
            await self._responses.send(exchange.send, 304, answer)
            return
        content = Content.of(info.attributes.get(CONTENT_TYPE))
        body = content.body_of([record.data for record in records])
        await self._responses.send(exchange.send, 200, answer, body)


def metadata_of(info: StreamInfo) -> HeaderList:
    """The headers that describe a stream."""
    headers: HeaderList = [
        (b"content-type", Content.of(info.attributes.get(CONTENT_TYPE)).header.encode()),
        (b"stream-next-offset", format_offset(info.tail).encode()),
    ]
    if info.state is not State.STREAMING:
        headers.append((b"stream-closed", _TRUE))
    if info.ttl is not None:
        headers.append((b"stream-ttl", b"%d" % info.ttl))
    elif info.expires_at is not None:
        at = info.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        headers.append((b"stream-expires-at", at.encode()))
    return headers


def same_stream(earlier: StreamInfo, later: StreamInfo | None) -> StreamInfo:
    """The later info, if there is one. Raises `StreamNotFound` if it is a namesake's."""
    if later is None:
        return earlier
    if later.created_at != earlier.created_at:
        raise StreamNotFound(earlier.id)
    return later


def _headers_of(info: StreamInfo, end: int) -> HeaderList:
    """The headers of a response with the stream's bytes up to `end`."""
    headers: HeaderList = [
        (b"content-type", Content.of(info.attributes.get(CONTENT_TYPE)).header.encode()),
        (b"stream-next-offset", format_offset(end).encode()),
    ]
    if end >= info.tail:
        headers.append((b"stream-up-to-date", _TRUE))
        if info.state is not State.STREAMING:
            headers.append((b"stream-closed", _TRUE))
    return headers


def _etag(info: StreamInfo, start: str, end: int) -> bytes:
    """The ETag of a read. It differs between namesakes, and changes when the stream closes."""
    is_end = end >= info.tail and info.state is not State.STREAMING
    identity = to_microseconds(info.created_at)
    return f'"{identity:x}:{start}:{end}{":c" if is_end else ""}"'.encode()


def _matches(if_none_match: bytes | None, etag: bytes) -> bool:
    if if_none_match is None:
        return False
    # Weak tags match as well: If-None-Match compares weakly (RFC 9110, 13.1.2), and proxies
    # that compress make a strong tag weak.
    tags = [tag.strip() for tag in if_none_match.split(b",")]
    return b"*" in tags or etag in tags or b"W/" + etag in tags


async def _until_disconnected(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
