"""Answers that are not kept: they go from the model to the client that asked."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable

from streamstores import logs
from streamstores.http._asgi.event_stream import EventStream, event_stream_headers
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.handler import StreamHandler
from streamstores.http.chat.models import StreamRequest, records_from
from streamstores.http.chat.records import sse_event, sse_of
from streamstores.http.chat.request import ChatRequests, wants_json_text
from streamstores.http.chat.script import send_script
from streamstores.limits import Limits
from streamstores.runs import TooManyRuns
from streamstores.store import Record

__all__ = ["DirectChat"]

_log = logging.getLogger("streamstores.http")


class DirectChat:
    """`POST /stream` without a store: no stream id, no offsets, nothing to resume.

    A model advances only as fast as its client reads, and is closed when the client leaves.
    """

    def __init__(
        self,
        requests: ChatRequests,
        stream: EventStream,
        max_runs: int,
        describe_error: Callable[[Exception], str],
        watch_signals: bool,
    ) -> None:
        self._requests = requests
        self._stream = stream
        self._max_runs = max_runs
        self._describe_error = describe_error
        self._watch_signals = watch_signals
        self._runs = 0
        self._gate = stream.patience.gate

    def handler(self) -> StreamHandler:
        routes = {"/stream": {"POST": self._start}, "/stream.js": {"GET": send_script}}
        return StreamHandler(
            routes,
            self._close,
            patience=self._stream.patience,
            watch_signals=self._watch_signals,
        )

    async def _start(self, exchange: Exchange) -> None:
        """Call the model, and send its answer as it comes."""
        fields = await self._requests.read_fields(exchange)
        request = self._requests.stream_request(fields, exchange, None)
        await self._requests.check(exchange, "", "start")
        self._gate.check_open()
        if self._runs >= self._max_runs:
            raise TooManyRuns(f"this process produces {self._max_runs} streams already")
        self._runs += 1
        try:
            await self._stream.send(
                exchange,
                event_stream_headers(self._stream.ping_interval),
                self._bodies(request, text_as_json=wants_json_text(exchange)),
            )
        finally:
            self._runs -= 1

    async def _bodies(
        self, request: StreamRequest, *, text_as_json: bool
    ) -> AsyncGenerator[bytes, None]:
        """The answer as events. A model that fails ends it with an event `error`, then
        `done`."""
        model = self._requests.models[request.model]
        # No store bounds the records here, but the same model must also work with a store.
        records = records_from(model, request, Limits.record_bytes)
        try:
            async for data in records:
                yield sse_of([Record(0, data)], text_as_json=text_as_json, with_ids=False)
        except Exception as exc:
            _log.error(
                "model %r failed",
                request.model,
                exc_info=exc,
                extra=logs.event("chat.model_failed"),
            )
            yield sse_event("error", self._describe_error(exc))
        finally:
            await records.aclose()
        yield sse_event("done")

    async def _close(self) -> None:
        self._gate.close()
