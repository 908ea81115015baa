"""Names in a store that one handler writes and another must know."""

from __future__ import annotations

__all__ = ["MODEL_ATTRIBUTE", "SAVED_REQUEST_PREFIX"]

MODEL_ATTRIBUTE = "model"
"""The attribute with the name of the model that answers in a chat stream."""

SAVED_REQUEST_PREFIX = "streamstores.request/"
"""The ids of streams that hold the requests of other streams begin with this. No handler
serves or shows them."""
