"""The attribute of a stream by which spans of other processes are linked to its start."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamstores.values import StreamInfo

__all__ = ["TRACEPARENT", "context_of", "links_to", "traceparent_of"]

TRACEPARENT = "traceparent"
"""The attribute with the context of the span `streamstores start`, in the form of the W3C's
Trace Context: 55 bytes."""

_FORMAT = TraceContextTextMapPropagator()


def traceparent_of(span: Span) -> dict[str, str]:
    """The attributes that link to this span; none if it is not recorded anywhere."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    return {TRACEPARENT: f"00-{ids}-{context.trace_flags:02x}"}


def context_of(info: StreamInfo) -> SpanContext | None:
    """The context in which the stream was started; None if it says none."""
    # Any client of the store can write attributes: what is malformed is no context.
    if TRACEPARENT not in info.attributes:
        return None
    carrier = {TRACEPARENT: info.attributes[TRACEPARENT]}
    context = get_current_span(_FORMAT.extract(carrier, Context())).get_span_context()
    return context if context.is_valid else None


def links_to(info: StreamInfo) -> list[Link]:
    """A link to the start of the stream, unless that is the current span."""
    context = context_of(info)
    if context is None or context.span_id == get_current_span().get_span_context().span_id:
        return []
    return [Link(context)]
