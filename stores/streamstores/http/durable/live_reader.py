"""Live reads as server-sent events: the records that exist, then new ones as they come.

Most readers of a stream are at its end together and get the same bytes. So the last few
events that were encoded are kept, and sent to all of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime

from streamstores import logs
from streamstores._sse import encode_event
from streamstores.errors import StreamStoreError
from streamstores.follow import Follower, follow
from streamstores.http._asgi.bounded_reader import FIRST_PAGE_BYTES, BoundedReader
from streamstores.http._asgi.event_stream import EventStream, in_parts
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.patience import ClientPatience
from streamstores.http.durable.attributes import CONTENT_TYPE
from streamstores.http.durable.content import Content
from streamstores.http.durable.expiry import kept_alive
from streamstores.http.durable.offsets import format_offset, next_cursor
from streamstores.http.durable.reader import Reader, same_stream
from streamstores.http.durable.request_headers import ReadRequest
from streamstores.http.durable.responses import Responses
from streamstores.store import Page, Record, State, StreamInfo, StreamStore

__all__ = ["LiveReader"]

_EVENT_BYTES = 65_536  # about the most that is encoded ahead for one client
_SHARED_EVENTS = 64
_SHARED_BYTES = 65_536
_PING_SECONDS = 15.0
# For proxies. A comment, because a control event would need an offset, which could be ahead of
# what was sent.
_PING = b":\n\n"

_Key = tuple[str, datetime, int, int, bool, bool, int]
_Event = tuple[bytes, int, bytes]
"""The bytes, the offset that they reach, and the bytes of the records that are held back."""

_log = logging.getLogger("streamstores.http")


class LiveReader:
    """The live reads of one process, with the events that they share."""

    def __init__(
        self,
        store: StreamStore,
        reader: Reader,
        responses: Responses,
        *,
        live_seconds: float,
        patience: ClientPatience,
    ) -> None:
        self._store = store
        self._reader = reader
        self._responses = responses
        self._live_seconds = live_seconds
        self._stream = EventStream(patience, _PING_SECONDS, _PING, live_seconds)
        self._shared: dict[_Key, _Event] = {}

    async def send(self, exchange: Exchange, stream_id: str, reading: ReadRequest) -> None:
        """Answer with events until the stream is closed or `live_seconds` have passed.

        Two store calls to begin with; after that the followers of a stream share their reads.
        """
        page = await self._reader.page(stream_id, reading.offset, max_bytes=FIRST_PAGE_BYTES)
        content = Content.of(page.info.attributes.get(CONTENT_TYPE))
        headers = [
            *self._responses.common,
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        if not content.is_text:
            headers.append((b"stream-sse-data-encoding", b"base64"))
        info, bodies = page.info, self._bodies(page, content, reading.cursor)
        del page  # its records would live as long as the response
        async with kept_alive(self._store, info, self._live_seconds):
            await self._stream.send(exchange, headers, bodies)

    async def _bodies(
        self, page: Page, content: Content, echoed: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The stream as events. If it cannot be read any further they end without an error,
        and the client learns the reason when it asks again."""
        start = page.records[0].offset if page.records else page.next_offset
        cursor = _Cursor(content, start, self._shared, next_cursor(echoed) if echoed else 0)
        for event in cursor.events(page.info, page.records):
            yield event
        info = page.info
        reader = BoundedReader(self._store, info, page.next_offset, self._follow)
        del page
        try:
            while not cursor.is_over:
                batch = await reader.batch()
                for event in cursor.events(same_stream(info, reader.info), batch):
                    yield event
                del batch
        except StreamStoreError as exc:
            _log.info(
                "a response ended early, and its client will ask again: %s",
                logs.reason(exc),
                extra=logs.event("http.response_ended_early", info.id),
            )
        finally:
            await reader.aclose()

    async def _follow(self, info: StreamInfo, offset: int) -> Follower:
        return follow(self._store, info.id, offset)


class _Cursor:
    """One client's position in one stream."""

    def __init__(
        self, content: Content, offset: int, shared: dict[_Key, _Event], least_cursor: int
    ) -> None:
        self.is_over = False
        """Whether the client was told that the stream is closed."""
        self._content = content
        self._offset = offset
        """The offset after the last byte sent; `_held` begins here."""
        self._held = b""
        """In text, the first bytes of a character whose last byte has not arrived."""
        self._shared = shared
        self._least_cursor = least_cursor

    def events(self, info: StreamInfo, records: list[Record]) -> Iterator[bytes]:
        """The events for new records. Without records, an event with the stream's status."""
        for part in in_parts(records, _EVENT_BYTES) if records else ([],):
            end = part[-1].end if part else info.tail
            is_end = end == info.tail
            is_closed = is_end and info.state is not State.STREAMING
            cursor = max(next_cursor(None), self._least_cursor)
            # All that the event depends on. What is held back needs no place in it: it follows
            # from the offset.
            key = (info.id, info.created_at, self._offset, end, is_end, is_closed, cursor)
            made = self._shared.get(key)
            if made is None:
                made = self._make(part, end, is_end, is_closed, cursor)
                self._share(key, made)
            event, self._offset, self._held = made
            self.is_over = is_closed
            if event:
                yield event

    def _make(
        self, part: list[Record], end: int, is_end: bool, is_closed: bool, cursor: int
    ) -> _Event:
        """A data event, if there are whole characters to send, and its control event."""
        chunks = [record.data for record in part]
        if self._held:
            chunks.insert(0, self._held)
        held = b""
        # A closed stream sends what it has: the rest of that character will never come.
        if chunks and not self._content.is_json and not is_closed:
            data = b"".join(chunks)
            whole = self._content.whole_bytes(data)
            chunks, held = [data[:whole]] if whole else [], data[whole:]
            if not whole:
                return b"", self._offset, held
        control: dict[str, object] = {"streamNextOffset": format_offset(end - len(held))}
        if is_closed:
            control["streamClosed"] = True
        else:
            control["streamCursor"] = str(cursor)
        if is_end and not held:
            control["upToDate"] = True
        text = json.dumps(control, separators=(",", ":")).encode()
        data_event = self._content.data_event(chunks) if chunks else b""
        event = data_event + encode_event(text, name=b"control", compact=True)
        return event, end - len(held), held

    def _share(self, key: _Key, made: _Event) -> None:
        # Long events are for readers that catch up, each from an offset of its own.
        if len(made[0]) > _SHARED_BYTES:
            return
        self._shared[key] = made
        if len(self._shared) > _SHARED_EVENTS:
            del self._shared[next(iter(self._shared))]
