"""A chat whose process writes each span that has ended to a file, a line of JSON each time.

STORE    the store's URL
SPANS    the file that all processes write to
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from streamstores import open_store
from streamstores.http import StreamRequest, continues, create_stream_handler
from streamstores.integrations.opentelemetry import instrument
from tests.telemetry.spans import line_of


class LineExporter(SpanExporter):
    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            file.writelines(line_of(span) for span in spans)
        return SpanExportResult.SUCCESS


@continues
async def model(request: StreamRequest) -> AsyncIterator[str]:
    """Silent after its first word; the next process says the rest."""
    if not request.partial:
        yield "begun "
        await asyncio.Event().wait()
    yield "and ended"


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(LineExporter(Path(os.environ["SPANS"]))))
trace.set_tracer_provider(provider)
app = create_stream_handler(model, instrument(open_store(os.environ["STORE"])), heartbeat=1.0)
