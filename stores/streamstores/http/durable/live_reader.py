"""Reading as server-sent events: what is there, and then what comes.

Most readers of a stream are at its end together and get the same bytes, so an event is
encoded for the first of them and kept for the others, as long as it is among the last few.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime

from streamstores.errors import StreamStoreError
from streamstores.follow import follow
from streamstores.http._asgi.closing import Gate
from streamstores.http._asgi.event_stream import in_parts, send_events
from streamstores.http._asgi.exchange import Exchange
from streamstores.http.durable.attributes import CONTENT_TYPE
from streamstores.http.durable.content import Content
from streamstores.http.durable.expiry import kept_alive
from streamstores.http.durable.offsets import format_offset, next_cursor
from streamstores.http.durable.reader import Reader, same_stream
from streamstores.http.durable.request_headers import Reading
from streamstores.http.durable.responses import Answers
from streamstores.store import Page, Record, State, StreamInfo, StreamStore

__all__ = ["LiveReader"]

_EVENT_BYTES = 262_144  # about how much a client that does not read has encoded for it
_SHARED_EVENTS = 64
_SHARED_BYTES = 65_536
_PING_SECONDS = 15.0
_PING = b":\n\n"  # a comment: for proxies; an offset in it could be ahead of what was sent

_Key = tuple[str, datetime, int, int, bool, bool, int]
_Event = tuple[bytes, int, bytes]
"""The bytes, the offset that they reach, and what of the records is held behind them."""

_log = logging.getLogger("streamstores.http")


class LiveReader:
    """The server-sent events of one process."""

    def __init__(
        self,
        store: StreamStore,
        reader: Reader,
        answers: Answers,
        *,
        live_seconds: float,
        gate: Gate,
    ) -> None:
        self._store = store
        self._reader = reader
        self._answers = answers
        self._live_seconds = live_seconds
        self._gate = gate
        self._shared: dict[_Key, _Event] = {}

    async def send(self, exchange: Exchange, stream_id: str, reading: Reading) -> None:
        """Answer with events until the stream is closed or the time is up, after which
        clients come back. Two store calls to begin with; then followers share their reads."""
        page = await self._reader.page(stream_id, reading.offset)
        content = Content.of(page.info.attributes.get(CONTENT_TYPE))
        headers = [
            *self._answers.common,
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        if not content.is_text:
            headers.append((b"stream-sse-data-encoding", b"base64"))
        info, bodies = page.info, self._bodies(page, content, reading.cursor)
        del page  # its records are a megabyte, and this goes on for a minute
        async with kept_alive(self._store, info, self._live_seconds):
            await send_events(
                exchange.receive,
                exchange.send,
                headers,
                bodies,
                ping_interval=_PING_SECONDS,
                gate=self._gate,
                ping=_PING,
                lasts=self._live_seconds,
            )

    async def _bodies(
        self, page: Page, content: Content, echoed: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The stream as events. It just ends where the stream cannot be read on: clients ask
        again, and are told."""
        start = page.records[0].offset if page.records else page.next_offset
        line = _Line(content, start, self._shared, next_cursor(echoed) if echoed else 0)
        for event in line.events(page.info, page.records):
            yield event
        info, offset = page.info, page.next_offset
        del page
        try:
            async with follow(self._store, info.id, offset) as follower:
                while not line.is_over:
                    batch = await follower.batch()
                    for event in line.events(same_stream(info, follower.info), batch):
                        yield event
                    del batch
        except StreamStoreError as exc:
            _log.info("a response was cut, its client will ask again: %s", exc)


class _Line:
    """One client's place in one stream."""

    def __init__(
        self, content: Content, offset: int, shared: dict[_Key, _Event], least_cursor: int
    ) -> None:
        self.is_over = False
        """Whether the client was told that the stream is closed."""
        self._content = content
        self._offset = offset
        """What was sent ends here, and what is held begins."""
        self._held = b""
        """In text, the beginning of a character whose rest has not come."""
        self._shared = shared
        self._least_cursor = least_cursor

    def events(self, info: StreamInfo, records: list[Record]) -> Iterator[bytes]:
        """The events for what came; with nothing, the one that says how the stream is."""
        for part in in_parts(records, _EVENT_BYTES) if records else ([],):
            end = part[-1].end if part else info.tail
            is_end = end == info.tail
            is_closed = is_end and info.state is not State.STREAMING
            cursor = max(next_cursor(None), self._least_cursor)
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
        chunks = [record.data for record in part]
        if self._held:
            chunks.insert(0, self._held)
        held = b""
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
        event = b"%bevent: control\ndata:%b\n\n" % (data_event, text)
        return event, end - len(held), held

    def _share(self, key: _Key, made: _Event) -> None:
        if len(made[0]) > _SHARED_BYTES:
            return
        self._shared[key] = made
        if len(self._shared) > _SHARED_EVENTS:
            del self._shared[next(iter(self._shared))]
