"""`streamstores demo`: a chat page, a model, and a store, to break on purpose."""

from __future__ import annotations

from streamstores.demo.demo import (
    Choice,
    DemoError,
    choose_model,
    create_demo,
    create_handler,
    run_demo,
)

__all__ = ["Choice", "DemoError", "choose_model", "create_demo", "create_handler", "run_demo"]
