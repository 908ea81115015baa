"""The registry of checks: their ids, the clauses they belong to, and what they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from streamstores.conformance.harness import Harness

__all__ = ["CLAUSES", "Check", "check", "registered"]

CLAUSES = {
    1: "One mutation primitive",
    2: "Linearizable per stream",
    3: "Order and bytes",
    4: "Waiting",
    5: "Following",
    6: "States",
    7: "Expiry",
    8: "Limits",
    9: "Cancellation and closing",
    10: "Many processes",
    11: "Ids begin anew",
}

CheckFunction = Callable[[Harness], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """An executable sentence of the contract."""

    id: str
    """A stable name such as `clause04-wakes-on-append`, by which deviations refer to it."""
    clause: int
    title: str
    needs: frozenset[str]
    """The capabilities that the store must declare, else the check is "not offered".

    `"second_process"` is not a capability of the store: the target must provide it.
    """
    function: CheckFunction


_checks: dict[str, Check] = {}


def check(clause: int, *needs: str) -> Callable[[CheckFunction], CheckFunction]:
    """Register an `async def check_…(harness)`.

    Its id comes from its name, its title is the first paragraph of its docstring.
    """

    def register(function: CheckFunction) -> CheckFunction:
        name = function.__name__.removeprefix("check_").replace("_", "-")
        check_id = f"clause{clause:02}-{name}"
        paragraph = (function.__doc__ or "").strip().partition("\n\n")[0]
        title = " ".join(paragraph.split()).rstrip(".")
        # A check of the same id would replace the other without a word, and the suite would
        # shrink.
        if not title or check_id in _checks or clause not in CLAUSES:
            raise ValueError(f"{check_id} needs a title, a known clause and an unused name")
        _checks[check_id] = Check(check_id, clause, title, frozenset(needs), function)
        return function

    return register


def registered() -> tuple[Check, ...]:
    """Every check whose module was imported, by clause, then in the order of the source."""
    return tuple(sorted(_checks.values(), key=lambda each: each.clause))
