"""`streamstores demo`: a chat page, a model and a store, to be broken on purpose."""

from __future__ import annotations

from streamstores.demo.demo import (
    Choice,
    DemoError,
    choose_model,
    create_demo,
    create_handler,
    run_demo,
    with_question,
)

__all__ = [
    "Choice",
    "DemoError",
    "choose_model",
    "create_demo",
    "create_handler",
    "run_demo",
    "with_question",
]
