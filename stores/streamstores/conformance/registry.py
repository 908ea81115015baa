"""The checks: what each is called, which clause it holds a store to, and what it needs."""

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
    """One executable sentence of the contract."""

    id: str
    """Stable, like `clause04-wakes-on-append`; what deviations name."""
    clause: int
    title: str
    needs: frozenset[str]
    """Capabilities without which it is "not offered"; `"second_process"` is the harness's."""
    function: CheckFunction


_checks: dict[str, Check] = {}


def check(clause: int, *needs: str) -> Callable[[CheckFunction], CheckFunction]:
    """Register an `async def check_what_it_says(harness)`; its docstring is its title."""

    def register(function: CheckFunction) -> CheckFunction:
        name = function.__name__.removeprefix("check_").replace("_", "-")
        check_id = f"clause{clause:02}-{name}"
        title = (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        if not title or check_id in _checks or clause not in CLAUSES:
            raise ValueError(f"{check_id}: a title, a clause and a name of its own, please")
        _checks[check_id] = Check(check_id, clause, title, frozenset(needs), function)
        return function

    return register


def registered() -> tuple[Check, ...]:
    """Every check whose module was imported, by clause, then as written."""
    return tuple(sorted(_checks.values(), key=lambda each: each.clause))
