"""A writer for synchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from streamstores.blocking.background_loop import call
from streamstores.errors import Conflict, StreamClosed
from streamstores.store import StateLike, StreamInfo, StreamStore
from streamstores.writer import StreamWriter

__all__ = ["BlockingWriter"]

HEARTBEAT_SECONDS = 5.0


class BlockingWriter:
    """A `StreamWriter` without `async`; see there for what it promises.

    A Stop, from any process, ends it: the next `write` raises `StreamClosed`. A producer that
    blocks between its tokens, in a request to a model's API, say, hears of the Stop through
    `on_end`, and can close that request.
    """

    def __init__(self, store: StreamStore, stream_id: str, options: Mapping[str, Any]) -> None:
        self.stream_id = stream_id
        self._writer, self._ended = call(_started(store, stream_id, options))

    @property
    def info(self) -> StreamInfo | None:
        """The stream as this writer last knew it."""
        return self._writer.info

    @property
    def is_stopped(self) -> bool:
        """Whether the stream was stopped, or taken by another producer."""
        ended = self._ended
        return ended.done() and isinstance(ended.result(), (StreamClosed, Conflict))

    def on_end(self, callback: Callable[[Exception | None], None]) -> None:
        """Call `callback(error)` when this writer ends, None standing for a close.

        It is called in the thread of the background loop, at once if the writer has ended
        already. It must return promptly and must not call blocking methods of this package.
        """
        call(self._watch(callback))

    def write(self, chunk: bytes) -> None:
        """Accept a chunk; wait while the buffer is full. Raises what ended the writer."""
        call(self._writer.write(chunk))

    def flush(self) -> None:
        """Wait until the store has acknowledged all that was written."""
        call(self._writer.flush())

    def close(
        self,
        state: StateLike | None = None,
        *,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo | None:
        """Flush, and with the last append set the state, as `StreamWriter.aclose` does."""
        return call(self._writer.aclose(state, error=error, attributes=attributes))

    def __enter__(self) -> BlockingWriter:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object
    ) -> None:
        call(self._writer.__aexit__(exc_type, exc, traceback))

    async def _watch(self, callback: Callable[[Exception | None], None]) -> None:
        self._writer.ended().add_done_callback(lambda ended: callback(ended.result()))


async def _started(
    store: StreamStore, stream_id: str, options: Mapping[str, Any]
) -> tuple[StreamWriter, asyncio.Future[Exception | None]]:
    chosen: dict[str, Any] = {"heartbeat": HEARTBEAT_SECONDS, **options}
    writer = StreamWriter(store, stream_id, **chosen)
    # At once, so that the heartbeat begins before the first token, which may take minutes.
    writer.start()
    return writer, writer.ended()
