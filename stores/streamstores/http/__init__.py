"""Handlers that speak HTTP: ASGI applications that know only the contract of a store.

They need the extra `http`: `pip install "streamstores[http]"`.
"""

from __future__ import annotations

from streamstores.http.app import StreamHandler
from streamstores.http.chat import create_stream_handler
from streamstores.http.durable import create_durable_streams_app
from streamstores.http.sources import Model, StreamRequest, continues
from streamstores.http.sse import Event

__all__ = [
    "Event",
    "Model",
    "StreamHandler",
    "StreamRequest",
    "continues",
    "create_durable_streams_app",
    "create_stream_handler",
]
