"""Any endpoint's stream, made resumable: the endpoint, its authorisation and its wire stay the
application's own."""

from __future__ import annotations

from streamstores._sse import ServerSentEvent
from streamstores.http.resumable.response import StreamResponse
from streamstores.http.resumable.source import AnySource, close_unread, iterate
from streamstores.http.resumable.streams import ResumableStreams

__all__ = [
    "AnySource",
    "ResumableStreams",
    "ServerSentEvent",
    "StreamResponse",
    "close_unread",
    "iterate",
]
