"""Model functions for the chat handler; see `streamstores.integrations.models`."""

from __future__ import annotations

from streamstores.integrations.models import (
    ModelFunction,
    find_smollm2,
    gguf_model,
    openai_model,
    text_source,
)

__all__ = ["ModelFunction", "find_smollm2", "gguf_model", "openai_model", "text_source"]
