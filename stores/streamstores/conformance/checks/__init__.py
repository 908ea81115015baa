"""The checks, by topic. Importing this package registers all of them."""

from __future__ import annotations

import sys
from importlib import import_module

TOPICS = (
    "mutation",
    "times",
    "races",
    "creations",
    "pages",
    "waits",
    "followers",
    "changes",
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

# pytest can rewrite the assertions only of modules that are not imported yet.
if "pytest" in sys.modules:
    import pytest

    pytest.register_assert_rewrite(*_MODULES)

for _module in _MODULES:
    import_module(_module)
