"""An OpenTelemetry SDK that keeps what it is told, and questions to ask of it."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streamstores import StreamStore
from streamstores.integrations.opentelemetry import instrument


class Recording:
    """The providers, and what they were told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def instrument(self, store: StreamStore, **options: Any) -> StreamStore:
        providers = {"tracer_provider": self.tracers, "meter_provider": self.meters}
        return instrument(store, **providers, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        """The ended spans of this name, in the order of their ends."""
        return [each for each in self._exporter.get_finished_spans() if each.name == name]

    def span(self, name: str) -> ReadableSpan:
        [span] = self.spans(name)
        return span

    def all_spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def points(self) -> dict[str, list[Any]]:
        """The data points of each metric now."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str, **attributes: Any) -> float:
        """The sum of the points that have these attributes (with `_` for `.`); of a histogram
        the number of its measurements."""
        wanted = attributes.items()
        total = 0.0
        for point in self.points().get(f"streamstores.{name}", []):
            has = {key.replace(".", "_"): value for key, value in point.attributes.items()}
            if wanted <= has.items():
                total += getattr(point, "count", None) or getattr(point, "value", 0)
        return total
