"""The observer that makes spans and metrics of what the package does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from time import perf_counter
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from streamstores._shared_readers import followers_here
from streamstores.errors import StreamExists
from streamstores.integrations._opentelemetry.instrumented_store import InstrumentedStore
from streamstores.integrations._opentelemetry.instruments import Instruments
from streamstores.integrations._opentelemetry.stream_links import (
    context_of,
    links_to,
    traceparent_of,
)
from streamstores.observation import Note, Observer
from streamstores.values import StreamInfo

__all__ = ["Telemetry", "name_of"]

_SCOPE = "streamstores"
_STORE = "streamstores.store"
_STREAM_ID = "streamstores.stream.id"
_OUTCOME = "streamstores.outcome"
_FOUND = "streamstores.poll.found"
_REASON = "streamstores.takeover.reason"

# Not the span that is current: a source may leave a span of its own behind between two steps.
_run_span: ContextVar[Span | None] = ContextVar("streamstores_run_span", default=None)


class Telemetry(Observer):
    """Reports to the providers of an SDK."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self.shows_ids = False
        self._providers = (tracers, meters)
        self._tracer: Tracer = tracers.get_tracer(_SCOPE)
        self._followed: set[str] = set()
        self._metrics = Instruments(meters.get_meter(_SCOPE), self._followers)

    def reports_to(self, tracers: TracerProvider, meters: MeterProvider) -> bool:
        return self._providers == (tracers, meters)

    def expect_store(self, name: str) -> None:
        """Begin the counters of rare events at 0, or the first of them would be no increase."""
        self._followed.add(name)
        for counter in (self._metrics.producers_lost, self._metrics.notices_reconnects):
            counter.add(0, {_STORE: name})
        for has_found in (False, True):
            self._metrics.polls.add(0, {_FOUND: has_found})

    # --- spans

    @contextmanager
    def start(self, stream_id: str) -> Generator[Mapping[str, str], None, None]:
        with self._span("streamstores start", attributes=self._ids(stream_id)) as span:
            yield traceparent_of(span)

    @contextmanager
    def run(self, info: StreamInfo) -> Generator[Note, None, None]:
        """The span is current only for what is made here: the tasks of the run."""
        attributes = self._ids(info.id)
        span = self._tracer.start_span(
            "streamstores run", links=links_to(info), attributes=attributes
        )
        began_at = perf_counter()
        self._metrics.runs_active.add(1)

        def ended(outcome: str) -> None:
            span.set_attribute(_OUTCOME, outcome)
            if outcome in ("error", "lost"):
                span.set_status(Status(StatusCode.ERROR))
            span.end()
            self._metrics.runs_active.add(-1)
            seconds = perf_counter() - began_at
            self._metrics.run_duration.record(seconds, {_OUTCOME: outcome})

        token = _run_span.set(span)
        try:
            with trace.use_span(span):
                yield ended
        finally:
            _run_span.reset(token)

    @contextmanager
    def takeover(self, info: StreamInfo, reason: str) -> Generator[Note, None, None]:
        """The outcome is `failed` if the takeover raised."""
        outcomes: list[str] = []
        attributes = {_REASON: reason, **self._ids(info.id)}
        try:
            with self._span(
                "streamstores takeover", attributes=attributes, links=links_to(info)
            ) as span:
                yield outcomes.append
                span.set_attribute(_OUTCOME, outcomes[0])
        finally:
            outcome = outcomes[0] if outcomes else "failed"
            self._metrics.takeovers.add(1, {_REASON: reason, _OUTCOME: outcome})

    @contextmanager
    def request(
        self, scope: Mapping[str, Any], send: Any, route: str | None
    ) -> Generator[Any, None, None]:
        """A span of the server, or below that of a framework."""
        method = _method_of(scope)
        attributes: dict[str, str | int] = {"http.request.method": method}
        if route is not None:
            attributes["http.route"] = route
        statuses: list[int] = []

        async def observed_send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        # A framework that is instrumented itself has begun a span for the request already.
        is_first = not trace.get_current_span().get_span_context().is_valid
        name = f"{method} {route}" if route else method
        try:
            with self._span(
                name,
                kind=SpanKind.SERVER if is_first else SpanKind.INTERNAL,
                context=propagate.extract(_headers_of(scope)) if is_first else None,
                attributes=attributes,
            ) as span:
                yield observed_send
                for status in statuses:
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
        finally:
            if statuses:
                attributes["http.response.status_code"] = statuses[0]
            self._metrics.requests.add(1, attributes)

    def served(self, info: StreamInfo) -> None:
        span = trace.get_current_span()
        context = context_of(info)
        if context is not None:
            span.add_link(context)
        span.set_attributes(self._ids(info.id))

    def source_failed(self, exc: Exception) -> None:
        span = _run_span.get()
        if span is not None:
            span.set_attribute("error.type", _type_of(exc))

    # --- metrics

    def operated(
        self, store: object, operation: str, seconds: float, error: BaseException | None
    ) -> None:
        attributes = {_STORE: name_of(store), "streamstores.operation": operation}
        if error is not None:
            attributes["error.type"] = _type_of(error)
        self._metrics.operation_duration.record(seconds, attributes)

    def appended(self, store: object, chunks: tuple[bytes, ...]) -> None:
        attributes = {_STORE: name_of(store)}
        self._metrics.append_records.add(len(chunks), attributes)
        self._metrics.append_io.add(sum(map(len, chunks)), attributes)

    def delivered(self, store: object, info: StreamInfo) -> None:
        seconds = (datetime.now(timezone.utc) - info.updated_at).total_seconds()
        # The clock of the backend may be ahead of this machine's.
        self._metrics.delivery_duration.record(max(seconds, 0.0), {_STORE: name_of(store)})

    def producer_lost(self, store: object) -> None:
        self._metrics.producers_lost.add(1, {_STORE: name_of(store)})

    def retried(self, error: Exception) -> None:
        self._metrics.retries.add(1, {"error.type": _type_of(error)})

    def notices_interrupted(self, backend: str) -> None:
        self._metrics.notices_reconnects.add(1, {_STORE: backend})

    def polled(self, *, has_found: bool) -> None:
        self._metrics.polls.add(1, {_FOUND: has_found})

    def waited_for_connection(self, backend: str, seconds: float) -> None:
        self._metrics.pool_wait_duration.record(seconds, {_STORE: backend})

    def swept(self, backend: str, streams: int) -> None:
        self._metrics.sweeps.add(1, {_STORE: backend})
        self._metrics.swept_streams.add(streams, {_STORE: backend})

    # --- parts

    @contextmanager
    def _span(self, name: str, **options: Any) -> Generator[Span, None, None]:
        """A span that is current, and that names the type of what is raised in it.

        Not the exception itself: its text may contain an id or a prompt.
        """
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False, **options
        ) as span:
            try:
                yield span
            except BaseException as exc:
                span.set_attribute("error.type", _type_of(exc))
                if isinstance(exc, Exception) and not isinstance(exc, StreamExists):
                    span.set_status(Status(StatusCode.ERROR))
                raise

    def _ids(self, stream_id: str) -> dict[str, str]:
        return {_STREAM_ID: stream_id} if self.shows_ids else {}

    def _followers(self) -> Iterable[tuple[str, int]]:
        # A store that has lost its last follower has to come down to 0.
        counts: Counter[str] = Counter(dict.fromkeys(self._followed, 0))
        for store, count in followers_here():
            counts[name_of(store)] += count
        self._followed |= counts.keys()
        return counts.items()


def name_of(store: object) -> str:
    """The name of the instrumented store at or within `store`; if there is none, what the
    class of the innermost store is called. A wrapper has the store in it as `inner`."""
    found: object = store
    while not isinstance(found, InstrumentedStore) and hasattr(found, "inner"):
        found = getattr(found, "inner")  # noqa: B009  # no type has it
    if isinstance(found, InstrumentedStore):
        return found.name
    return type(found).__name__.removesuffix("StreamStore").lower()


def _type_of(exc: BaseException) -> str:
    return type(exc).__name__


_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


def _method_of(scope: Mapping[str, Any]) -> str:
    """The method, or `_OTHER`: any text may be sent as a method, and each would be a metric
    of its own."""
    method: str = scope["method"]
    return method if method in _METHODS else "_OTHER"


def _headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
