"""The chat handler: model functions, served as streams that can be resumed.

`docs/wire.md` describes its requests and responses, and `docs/chat.md` how to use it.
"""

from __future__ import annotations

from streamstores.http.chat.handler import create_stream_handler
from streamstores.http.chat.models import Model, StreamRequest, continues
from streamstores.http.chat.records import Event

__all__ = ["Event", "Model", "StreamRequest", "continues", "create_stream_handler"]
