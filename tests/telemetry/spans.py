"""Spans as lines of JSON, which several processes can write to one file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan


class ExportedSpan(NamedTuple):
    pid: int
    name: str
    trace: str
    id: str
    parent: str | None
    links: list[list[str]]
    attributes: dict[str, Any]


def line_of(span: ReadableSpan) -> str:
    fields = ExportedSpan(
        os.getpid(),
        span.name,
        f"{span.context.trace_id:032x}",
        f"{span.context.span_id:016x}",
        None if span.parent is None else f"{span.parent.span_id:016x}",
        [
            [f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}"]
            for link in span.links
        ],
        dict(span.attributes or {}),
    )
    return json.dumps(fields._asdict()) + "\n"


def spans_in(path: Path, name: str) -> list[ExportedSpan]:
    lines = path.read_text().splitlines() if path.exists() else []
    spans = [ExportedSpan(**json.loads(line)) for line in lines]
    return [span for span in spans if span.name == name]
