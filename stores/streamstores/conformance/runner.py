"""The runner of checks outside pytest, and its report."""

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
    """What the store does not offer, if that is the status."""
    error: BaseException | None = None
    """The exception that failed the check, with its traceback."""


@dataclass
class Report:
    """The results, in the order in which the checks ran."""

    results: list[Result] = field(default_factory=list)

    def count(self, status: Status) -> int:
        return sum(result.status == status for result in self.results)

    def by_clause(self) -> Iterator[tuple[int, list[Result]]]:
        """Every clause of the contract with its results, including clauses without any."""
        for clause in CLAUSES:
            yield clause, [each for each in self.results if each.check.clause == clause]

    def unproven(self, clauses: Iterable[int] = CLAUSES) -> list[int]:
        """The clauses of which no check passed: an empty run proves nothing."""
        proven = {each.check.clause for each in self.results if each.status == "passed"}
        return [clause for clause in clauses if clause not in proven]

    def ok(self, clauses: Iterable[int] = CLAUSES) -> bool:
        """Whether no check failed and at least one check of each clause passed."""
        return not self.count("failed") and not self.unproven(clauses)


async def perform(check: Check, target: Target) -> None:
    """Run a check in the current loop; raises what it raises, or `NotOffered`."""
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
    """Run a check in a new event loop; raises what it raises, or `NotOffered`."""
    __tracebackhide__ = True
    run_in_own_loop(_perform_in_time(check, target))


def run_checks(
    checks: Iterable[Check],
    target: Target,
    *,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run the checks one after another and report; an exception of a check is not raised.

    `on_result` is called with each result as soon as the check has ended.
    """
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
