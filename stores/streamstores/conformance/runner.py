"""The runner of checks outside pytest, and its report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from streamstores.conformance.assertions import PATIENCE, mark_retrieved
from streamstores.conformance.harness import (
    Harness,
    NotOffered,
    Target,
    run_in_own_loop,
)
from streamstores.conformance.registry import CLAUSES, Check
from streamstores.conformance.stacks import task_stack, thread_stack

__all__ = ["Hangs", "Report", "Result", "run_check", "run_checks"]

T = TypeVar("T")

Status = Literal["passed", "failed", "not offered"]

_SLOW_SECONDS = 10.0
_CLEANUP_FACTOR = 5
"""The cleanup of a check takes at most this many times `PATIENCE.eventual`."""


class Hangs(AssertionError):
    """Something did not end within `seconds`; `stack` says where it is, the innermost last."""

    def __init__(self, what: str, seconds: float, stack: Sequence[str]) -> None:
        self.seconds = seconds
        self.stack: tuple[str, ...] = tuple(stack)
        place = "".join(f"\n  {each}" for each in stack) or " an unknown place"
        super().__init__(f"{what} did not end within {seconds:g} seconds; it is at{place}")


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

    results: list[Result] = field(default_factory=list[Result])

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


def _ignore(*arguments: Any) -> None:
    """The default of the callbacks."""


async def perform(check: Check, target: Target) -> None:
    """Run a check in the current loop; raises what it raises, or `NotOffered`."""
    async with Harness(target) as harness:
        await harness.require(check.needs)
        await check.function(harness)


async def _perform_in_time(check: Check, target: Target) -> None:
    task = asyncio.create_task(perform(check, target))
    # A store that raises SystemExit ends the loop at once, and nothing awaits the task.
    task.add_done_callback(mark_retrieved)
    done, _ = await asyncio.wait([task], timeout=PATIENCE.whole_check)
    if done:
        return await task
    stack = task_stack(task)
    task.cancel()
    await asyncio.wait([task], timeout=_CLEANUP_FACTOR * PATIENCE.eventual)
    raise Hangs("the check", PATIENCE.whole_check, stack)


def run_check(check: Check, target: Target) -> None:
    """Run a check in a new event loop; raises what it raises, or `NotOffered`.

    A check that does not end raises `Hangs`, even if the store ignores cancellations.
    A store that blocks the thread blocks this function too; `run_checks` reports it.
    """
    __tracebackhide__ = True
    run_in_own_loop(_perform_in_time(check, target))


def run_checks(
    checks: Iterable[Check],
    target: Target,
    *,
    on_result: Callable[[Result], None] = _ignore,
    on_start: Callable[[Check], None] = _ignore,
    on_slow: Callable[[Check, float], None] = _ignore,
) -> Report:
    """Run the checks one after another and report; an exception of a check is not raised.

    `on_start` is called before each check and `on_result` when it has ended. `on_slow` is
    called with the seconds so far while a check runs, after 10, 30, 70 seconds and so on.

    Each check runs in a thread of its own, so that even a store that blocks its thread is
    reported as hanging. Such a thread is left behind, and the next checks go on.
    """
    report = Report()
    for check in checks:
        on_start(check)
        result = _result_of(check, target, partial(on_slow, check))
        report.results.append(result)
        on_result(result)
    return report


def in_thread(
    work: Callable[[], T],
    what: str,
    seconds: float,
    on_slow: Callable[[float], None] = _ignore,
) -> T:
    """The result of `work`, done in another thread.

    Raises `Hangs` after `seconds`. The thread is left behind then, and does not keep the
    process alive.
    """
    result: Future[T] = Future()
    # Not from an executor, whose threads Python joins when the process ends.
    thread = threading.Thread(target=_resolve, args=(result, work), name=what, daemon=True)
    begin, pause = time.monotonic(), _SLOW_SECONDS
    thread.start()
    while (waited := time.monotonic() - begin) < seconds:
        try:
            return result.result(min(pause, seconds - waited))
        except FutureTimeout:
            if result.done():
                raise  # it is the outcome of the work
            on_slow(time.monotonic() - begin)
            pause *= 2
    raise Hangs(what, seconds, thread_stack(thread.ident))


def _resolve(result: Future[T], work: Callable[[], T]) -> None:
    try:
        result.set_result(work())
    except BaseException as exc:  # SystemExit of a store must not pass for success
        result.set_exception(exc)


def _result_of(check: Check, target: Target, on_slow: Callable[[float], None]) -> Result:
    # Longer than what `run_check` takes, which can say more about where the check hangs.
    seconds = PATIENCE.whole_check + 2 * _CLEANUP_FACTOR * PATIENCE.eventual
    try:
        in_thread(partial(run_check, check, target), "the check", seconds, on_slow)
    except NotOffered as exc:
        return Result(check, "not offered", reason=str(exc))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        return Result(check, "failed", error=exc)
    return Result(check, "passed")
