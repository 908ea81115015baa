"""Where a request says that its client left off, for the request objects of any framework."""

from __future__ import annotations

from typing import Any

from streamstores.errors import OffsetOutOfRange
from streamstores.http._asgi.errors import HttpError
from streamstores.http.resumable.framings import find_event_id
from streamstores.store import StreamInfo, StreamStore

__all__ = ["offset_of_text", "resume_offset", "resume_point"]

_QUERIES = ("query_params", "GET", "args", "query")
"""Where Starlette, FastAPI and Litestar, then Django, Flask and Quart, then aiohttp keep the
query of a request."""
_START = "-1"  # how the clients of Durable Streams and of TanStack AI name it


def resume_point(request: Any) -> int | str:
    """The event id in `Last-Event-ID`, as text, or the `offset` of the query; 0 without either,
    and for the offset -1.

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
            text = str(query.get("offset") or "0")
            return 0 if text == _START else offset_of_text(text)
    return 0


def offset_of_text(text: str) -> int:
    """An offset as clients write it. Raises `HttpError`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise HttpError(400, "invalid_offset", "not an offset of this stream")
    return int(text)


async def resume_offset(
    store: StreamStore, info: StreamInfo, place: int | str, *, has_own_ids: bool
) -> int:
    """The offset at which a client goes on; a record begins there.

    `place` is an offset, or the id of the last event that the client has seen: an offset as
    text, or, with `has_own_ids`, what the source called the event. Costs at most one read,
    except that an event's own id is searched from the start of the stream. Raises `HttpError`
    and `OffsetOutOfRange`.
    """
    if isinstance(place, str):
        if has_own_ids:
            return await _offset_after(store, info, place)
        place = offset_of_text(place)
    if place > info.tail:
        raise OffsetOutOfRange(info.id, place, tail=info.tail)
    if 0 < place < info.tail:
        # A read one byte before begins with the rest of the record that has this byte.
        page = await store.read(info.id, place - 1, max_bytes=1)
        if page.records[0].end != place:
            raise HttpError(400, "invalid_offset", "the offset is inside an event or line")
    return place


async def _offset_after(store: StreamStore, info: StreamInfo, event_id: str) -> int:
    offset = 0
    while offset < info.tail:
        page = await store.read(info.id, offset)
        found = find_event_id(page.records, event_id)
        if found is not None:
            return found
        offset = page.next_offset
    raise HttpError(400, "invalid_offset", "no event of this stream has that id")
