"""The checks, by topic. Importing this package registers all of them."""

from __future__ import annotations

import sys
from importlib import import_module

TOPICS = (
    "mutation",
    "races",
    "pages",
    "waits",
    "followers",
    "states",
    "expiry",
    "limits",
    "names",
    "cancellation",
    "closed_stores",
    "processes",
    "namesakes",
    "writers",
)

_MODULES = [f"{__name__}.{topic}" for topic in TOPICS]

if "pytest" in sys.modules:  # only a module that is not imported yet can be rewritten
    import pytest

    pytest.register_assert_rewrite(*_MODULES)

for _module in _MODULES:
    import_module(_module)
