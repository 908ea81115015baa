"""What is measured: each module has functions that measure, and `CASES`, which says what."""

from __future__ import annotations

from benchmarks.cases import (
    appending,
    chats,
    costing,
    delivering,
    footprint,
    growing,
    replaying,
    serving,
)
from benchmarks.cases.case import Case

_MODULES = (appending, delivering, replaying, footprint, growing, costing, serving, chats)

ALL: dict[str, Case] = {case.name: case for module in _MODULES for case in module.CASES}
