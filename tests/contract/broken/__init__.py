"""Stores that break the contract deliberately, each in one way, and the check that sees it.

There is a module for each topic of `streamstores.conformance.checks`; importing this package
fills `BROKEN`.
"""

from tests.contract.broken import (
    cancellation,
    changes,
    creations,
    expiry,
    followers,
    hangs,
    limits,
    mutation,
    namesakes,
    pages,
    processes,
    races,
    states,
    times,
    waits,
)
from tests.contract.broken.registry import BROKEN, Broken
from tests.contract.broken.wrapper import Wrapper

__all__ = [
    "BROKEN",
    "Broken",
    "Wrapper",
    "cancellation",
    "changes",
    "creations",
    "expiry",
    "followers",
    "hangs",
    "limits",
    "mutation",
    "namesakes",
    "pages",
    "processes",
    "races",
    "states",
    "times",
    "waits",
]
