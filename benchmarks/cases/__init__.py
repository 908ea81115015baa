"""The cases: each module has functions that measure, and `CASES`, which describes them."""

from __future__ import annotations

from benchmarks.cases import (
    appends,
    chats,
    costs,
    deliveries,
    footprint,
    growth,
    http_serving,
    replays,
)
from benchmarks.cases.case import Case

_MODULES = (appends, deliveries, replays, footprint, growth, costs, http_serving, chats)

ALL: dict[str, Case] = {case.name: case for module in _MODULES for case in module.CASES}
