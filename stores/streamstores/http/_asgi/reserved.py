"""Names in a store that several handlers must agree on."""

from __future__ import annotations

__all__ = ["MODEL_ATTRIBUTE", "SAVED_REQUEST_ATTRIBUTE", "SAVED_REQUEST_PREFIX"]

MODEL_ATTRIBUTE = "model"
"""The attribute with the name of the model that answers in a chat stream."""

SAVED_REQUEST_ATTRIBUTE = "request_stream"
"""The attribute with the id of the stream that holds the request of a chat stream."""

SAVED_REQUEST_PREFIX = "streamstores.request/"
"""The prefix of the ids of streams that hold the requests of other streams. The chat handler
does not serve such streams, and the monitor does not show them."""
