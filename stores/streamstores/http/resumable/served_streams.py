"""`ServedStreams`: what every resumable handler is made of."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from streamstores import logs, observation
from streamstores.errors import StreamStoreError
from streamstores.http._asgi.bounded_reader import BoundedReader
from streamstores.http._asgi.event_stream import EventStream, in_parts
from streamstores.http._asgi.handler import Activity
from streamstores.runs import Runs
from streamstores.store import Record, StreamInfo, StreamStore

__all__ = ["ServedStreams", "touch"]

_SEND_BYTES = 65_536

T = TypeVar("T")

_log = logging.getLogger("streamstores.http")


class ServedStreams:
    """The streams of one process: their runs, and the responses that send them.

    `responses` says how clients are sent to and for how long they are waited for. What a
    stream's records look like, on the wire and in the store, is the handler's own.
    """

    def __init__(self, runs: Runs, responses: EventStream) -> None:
        self.runs = runs
        self.responses = responses
        self.is_closing: bool = False
        """Whether the runs are being handed over; the gate closes after that."""
        self._gate = responses.patience.gate
        self._readers: Counter[str] = Counter()

    @property
    def store(self) -> StreamStore:
        return self.runs.store

    def check_open(self) -> None:
        """Raise `StoreUnavailable` once the streams are closed, so that clients retry
        elsewhere."""
        self._gate.check_open()

    async def unless_closed(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, which is cancelled when the streams are closed; then it
        raises `StoreUnavailable`, so that the client asks elsewhere."""
        working = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._gate.wait_closed())
        try:
            await asyncio.wait((working, closing), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.check_open()
            return await working
        finally:
            working.cancel()
            closing.cancel()

    def activity(self, stream_id: str) -> Activity:
        """What this process does with a stream."""
        return Activity(self._readers[stream_id], self.runs.is_running(stream_id))

    def open_reader(self, info: StreamInfo, offset: int) -> BoundedReader:
        """A reader for one client, which `close_reader` must close.

        It counts as a reader from now on, before it has read anything: another reader that
        leaves meanwhile is not the last.
        """
        if observation.observer is not None:
            observation.observer.served(info)
        self._readers[info.id] += 1
        return BoundedReader(self.store, info, offset, self.runs.follow)

    async def close_reader(self, reader: BoundedReader) -> bool:
        """Close a reader; returns whether no reader of its stream is left in this process."""
        try:
            await reader.aclose()
        finally:
            stream_id = reader.info.id
            self._readers[stream_id] -= 1
            is_last = not self._readers[stream_id]
            if is_last:
                del self._readers[stream_id]
        return is_last

    async def bodies(
        self,
        reader: BoundedReader,
        encode: Callable[[list[Record]], bytes],
        ending: Callable[[StreamInfo], bytes | Awaitable[bytes]],
        *,
        opening: bytes = b"",
        batch: list[Record] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The stream as its client gets it: `opening`, the encoded records, and, once it has
        ended, what `ending`, plain or async, makes of its last state. `batch` is a batch that
        was read before.

        If the stream cannot be read any further, the bodies end without an ending. The status
        line is long sent, and without the ending the client knows that there is more. The
        store's error is no text for clients.
        """
        if opening:
            yield opening
        try:
            while batch := batch or await reader.batch():
                for part in in_parts(batch, _SEND_BYTES):
                    yield encode(part)
                batch = []  # its records would live until the next batch comes
            end = ending(reader.info)
            if inspect.isawaitable(end):
                end = await end
        except StreamStoreError as exc:
            _log.info(
                "a response ended early, and its client will ask again: %s",
                logs.reason(exc),
                extra=logs.event("http.response_ended_early", reader.info.id),
            )
            return
        if end:
            yield end

    async def hand_over(self) -> None:
        """Hand the runs over, and only then end the responses: a client that reconnects
        elsewhere must find its stream free to be taken over."""
        self.is_closing = True
        try:
            await self.runs.aclose()
        finally:
            self._gate.close()


async def touch(store: StreamStore, info: StreamInfo) -> StreamInfo:
    """Restart the ttl: a stream that is read lives on. One without a ttl keeps its expiry."""
    return info if info.ttl is None else await store.expire(info.id, info.ttl)
