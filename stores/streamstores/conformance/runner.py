"""Running checks without pytest, and the report of what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from streamstores.conformance.assertions import PATIENCE
from streamstores.conformance.harness import (
    Harness,
    NotOffered,
    Target,
    run_in_own_loop,
)
from streamstores.conformance.registry import CLAUSES, Check

__all__ = ["Report", "Result", "run_check", "run_checks"]

Status = Literal["passed", "failed", "not offered"]


@dataclass(frozen=True)
class Result:
    check: Check
    status: Status
    reason: str = ""
    """What is not offered."""
    error: BaseException | None = None
    """What failed it, with its traceback."""


@dataclass
class Report:
    """Results in the order they came."""

    results: list[Result] = field(default_factory=list)

    def count(self, status: Status) -> int:
        return sum(result.status == status for result in self.results)

    def by_clause(self) -> Iterator[tuple[int, list[Result]]]:
        """Every clause of the contract, also those of which nothing ran."""
        for clause in CLAUSES:
            yield clause, [each for each in self.results if each.check.clause == clause]

    def unproven(self, clauses: Iterable[int] = CLAUSES) -> list[int]:
        """Those of `clauses` of which no check passed: an empty run proves nothing."""
        proven = {each.check.clause for each in self.results if each.status == "passed"}
        return [clause for clause in clauses if clause not in proven]

    def ok(self, clauses: Iterable[int] = CLAUSES) -> bool:
        """Whether nothing failed and something passed of each of `clauses`."""
        return not self.count("failed") and not self.unproven(clauses)


async def perform(check: Check, target: Target) -> None:
    """Run one check; raises what it raises, and `NotOffered`."""
    async with Harness(target) as harness:
        await harness.require(check.needs)
        await check.function(harness)


async def _perform_in_time(check: Check, target: Target) -> None:
    task = asyncio.ensure_future(perform(check, target))
    done, _ = await asyncio.wait([task], timeout=PATIENCE.whole_check)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE.whole_check)
        raise AssertionError(f"the check did not end within {PATIENCE.whole_check:g} seconds")
    await task


def run_check(check: Check, target: Target) -> None:
    """Run one check in an event loop of its own; raises what it raises, and `NotOffered`."""
    __tracebackhide__ = True
    run_in_own_loop(_perform_in_time(check, target))


def run_checks(
    checks: Iterable[Check],
    target: Target,
    *,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run them one after another; `on_result` hears of each as it ends. Raises nothing that
    a check raised."""
    report = Report()
    for check in checks:
        result = _result_of(check, target)
        report.results.append(result)
        on_result(result)
    return report


def _result_of(check: Check, target: Target) -> Result:
    try:
        run_check(check, target)
    except NotOffered as exc:
        return Result(check, "not offered", reason=str(exc))
    except Exception as exc:
        return Result(check, "failed", error=exc)
    return Result(check, "passed")
