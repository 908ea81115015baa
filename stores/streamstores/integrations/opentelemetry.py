"""Traces and metrics by OpenTelemetry: its API alone, so the application chooses the SDK.

    trace.set_tracer_provider(…)  # of your SDK, as for everything else
    metrics.set_meter_provider(…)
    store = instrument(open_store("postgresql://…"))

`docs/telemetry.md` has every span, metric and attribute. It needs the extra `otel`.
"""

from __future__ import annotations

import logging

from streamstores import observation
from streamstores.logs import event
from streamstores.store import StreamStore

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as _missing_module:  # pragma: no cover
    raise ImportError(
        f"streamstores.integrations.opentelemetry needs {_missing_module.name}: "
        'pip install "streamstores[otel]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores.integrations._opentelemetry.instrumented_store import InstrumentedStore
from streamstores.integrations._opentelemetry.telemetry import Telemetry, name_of

__all__ = ["InstrumentedStore", "instrument", "uninstrument"]

_API = ("opentelemetry.trace", "opentelemetry.metrics")

_log = logging.getLogger("streamstores.opentelemetry")


def instrument(
    store: StreamStore,
    *,
    name: str | None = None,
    stream_ids: bool = False,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> StreamStore:
    """Measure the store's calls, and trace what this process does with streams.

    Returns a store to use in place of `store`, which may be a wrapper, and which may be
    wrapped. From the first call on, the runs, followers, handlers and backends of the whole
    process report too; later calls only add stores.

    `name` is the attribute `streamstores.store` of its metrics, by default what the class of
    the store is called: `postgres` for a `PostgresStreamStore`. A wrapper is looked through if
    it keeps its store as `inner`. With `stream_ids` the spans carry ids of
    streams, which they do not by default, because an id may be all that it takes to read a
    stream. The providers are by default the global ones.

    Set the providers before. If there is none, which is the case without an SDK, the store
    itself is returned and nothing is observed, so it costs nothing; this is logged as
    `telemetry.no_provider`.
    """
    tracers = tracer_provider or trace.get_tracer_provider()
    meters = meter_provider or metrics.get_meter_provider()
    if not _is_real(tracers) and not _is_real(meters):
        _log.info("no OpenTelemetry provider is set", extra=event("telemetry.no_provider"))
        return store
    telemetry = observation.observer
    if not isinstance(telemetry, Telemetry) or not telemetry.reports_to(tracers, meters):
        telemetry = Telemetry(tracers, meters)
        observation.observe(telemetry)
    telemetry.shows_ids = telemetry.shows_ids or stream_ids
    instrumented = InstrumentedStore(store, name or name_of(store))
    telemetry.expect_store(instrumented.name)
    return instrumented


def uninstrument() -> None:
    """End all reports of this process. Instrumented stores go on as plain wrappers, and
    `instrument` can be called again. Spans of runs that are under way still end."""
    observation.observe(None)


def _is_real(provider: object) -> bool:
    """Whether the provider is of an SDK. Those of the API itself do nothing."""
    return not type(provider).__module__.startswith(_API)
