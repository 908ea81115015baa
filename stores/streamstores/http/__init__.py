"""Handlers that speak HTTP: ASGI applications that know only the contract of a store.

They need the extra `http`: `pip install "streamstores[http]"`.
"""

from __future__ import annotations

from streamstores.http._asgi.handler import StreamHandler
from streamstores.http.chat import (
    Event,
    Model,
    StreamRequest,
    continues,
    create_stream_handler,
)
from streamstores.http.durable import create_durable_streams_app
from streamstores.http.resumable import ResumableStreams, ServerSentEvent, StreamResponse

__all__ = [
    "Event",
    "Model",
    "ResumableStreams",
    "ServerSentEvent",
    "StreamHandler",
    "StreamRequest",
    "StreamResponse",
    "continues",
    "create_durable_streams_app",
    "create_stream_handler",
]
