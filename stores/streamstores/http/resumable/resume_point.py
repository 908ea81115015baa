"""Where a request says that its client left off, for the request objects of any framework."""

from __future__ import annotations

from typing import Any

from streamstores.http._asgi.errors import HttpError

__all__ = ["offset_of_text", "resume_point"]

_QUERIES = ("query_params", "GET", "args", "query")
"""Where Starlette, FastAPI and Litestar, then Django, Flask and Quart, then aiohttp keep the
query of a request."""


def resume_point(request: Any) -> int | str:
    """The event id in `Last-Event-ID`, as text, or the `offset` of the query; 0 without either.

    The header wins, because an `EventSource` repeats its first URL, query and all, at each
    reconnect. Raises `HttpError` for an offset that is no number.
    """
    if request is None:
        return 0
    event_id = request.headers.get("Last-Event-ID")
    if event_id:
        return str(event_id)
    for name in _QUERIES:
        query = getattr(request, name, None)
        # Another framework may mean something else by such a name, such as a text or a method.
        if query is not None and hasattr(query, "get"):
            return offset_of_text(str(query.get("offset") or "0"))
    return 0


def offset_of_text(text: str) -> int:
    """An offset as clients write it. Raises `HttpError`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise HttpError(400, "invalid_offset", "not an offset of this stream")
    return int(text)
