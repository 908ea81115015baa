"""The command `check`: a store against every clause of the contract."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamstores.cli.exit_codes import EXIT_BAD_REQUEST, EXIT_FAILED
from streamstores.conformance import (
    CLAUSES,
    Check,
    Report,
    Result,
    Target,
    all_checks,
    run_checks,
    target_of,
)
from streamstores.conformance.assertions import PATIENCE, within
from streamstores.conformance.harness import run_in_own_loop
from streamstores.conformance.histories import run_history
from streamstores.conformance.runner import in_thread

if TYPE_CHECKING:
    import typer
    from rich.console import Console

__all__ = ["CheckEnded", "add_check"]


_TRACEBACK_FRAMES = 3


class CheckEnded(SystemExit):
    """The command `check` is over; a call of the store may still block a thread."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def add_check(app: typer.Typer) -> None:
    """Add the command `check`."""
    import typer  # noqa: PLC0415  # the core install has neither
    from rich.console import Console  # noqa: PLC0415

    about_target = typer.Argument(help="A store URL, or module:callable that returns a store.")
    about_only = typer.Option("", help="Only checks with this in their id; * and ? work.")
    about_clause = typer.Option([], min=1, max=max(CLAUSES), help="May be repeated.")
    about_histories = typer.Option(0, min=0, help="How many histories to run as well.")
    about_seed = typer.Option(0, min=0, help="The seed of the first history.")

    @app.command()
    def check(
        target: str = about_target,
        only: str = about_only,
        clause: list[int] = about_clause,
        histories: int = about_histories,
        seed: int = about_seed,
    ) -> None:
        """Check a store against every clause of the contract.

        The checks create streams whose ids begin with "conformance/", and delete them. A check
        that takes long is named while it runs.

        With --histories, concurrent clients with seeded choices use the store afterwards, and
        what they saw must fit into one order of their calls.

        Exits with 0 if no check and no history failed and at least one check of each clause
        passed, with 1 if not, and with 2 if there was nothing to check.
        """
        console = Console(highlight=False, markup=False, soft_wrap=True)
        try:
            selected = _select(only, clause)
            stores = _open(target)
        except Exception as exc:
            console.print(f"{type(exc).__name__}: {exc}", style="bold red")
            raise CheckEnded(EXIT_BAD_REQUEST) from exc
        progress = _Progress(console)
        report = run_checks(
            selected,
            stores,
            on_result=progress.show,
            on_start=progress.begin,
            on_slow=progress.show_slow,
        )
        clauses = sorted({each.clause for each in selected})
        _summarize(console, report, clauses)
        is_explained = _run_histories(console, stores, range(seed, seed + histories))
        raise CheckEnded(0 if report.ok(clauses) and is_explained else EXIT_FAILED)


def _select(only: str, clauses: Sequence[int]) -> list[Check]:
    pattern = only if set(only) & set("*?[") else f"*{only}*"
    selected = [
        each
        for each in all_checks()
        if fnmatchcase(each.id, pattern) and (not clauses or each.clause in clauses)
    ]
    if not selected:
        raise ValueError(f"no check has an id like {only!r} in the clauses asked for")
    return selected


def _open(text: str) -> Target:
    """The target, after trying to open it once."""
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, for module:callable
    target = target_of(text)

    async def open_once() -> None:
        async with target.make_store() as store:
            _ = store.limits, store.capabilities

    def open_in_time() -> None:
        what = "opening and closing the store"
        run_in_own_loop(within(PATIENCE.opening, open_once(), what))

    # The thread has a later bound, for a store that blocks it.
    in_thread(open_in_time, "opening and closing the store", 2 * PATIENCE.opening)
    return target


class _Progress:
    """Prints each clause and its checks as they run, and why a check failed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clause = 0

    def begin(self, check: Check) -> None:
        if check.clause != self._clause:
            self._clause = check.clause
            self._console.print(f"\n{self._clause}. {CLAUSES[self._clause]}", style="bold")
        if self._console.is_terminal:  # the result overwrites this line
            self._console.print(f"  run   {check.title}", style="dim", end="\r")

    def show_slow(self, check: Check, seconds: float) -> None:
        note = f"running for {seconds:.0f} seconds"
        self._console.print(f"  wait  {check.title} ({check.id}, {note})", style="yellow")

    def show(self, result: Result) -> None:
        status, style = _LABELS[result.status]
        note = f" ({result.reason})" if result.reason else ""
        self._console.print(f"  {status}  ", style=style, end="")
        self._console.print(f"{result.check.title}{note}")
        if result.error is not None:
            self._console.print(f"          {result.check.id}", style="dim")
            self._console.print(_explain(result.error))


_LABELS = {
    "passed": ("pass", "green"),
    "failed": ("FAIL", "bold red"),
    "not offered": ("none", "dim"),
}


def _explain(error: BaseException) -> str:
    """The message of the failure and the last frames of its traceback, without our own."""
    name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    lines = f"{name}{error}".splitlines()
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if not frame.filename.endswith("assertions.py")]
    for frame in frames[-_TRACEBACK_FRAMES:]:
        lines.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
        lines.append(f"    {frame.line}")
    return "\n".join(f"          {line}" for line in lines)


def _run_histories(console: Console, target: Target, seeds: range) -> bool:
    """Run the histories up to the first that has no explanation, and print the verdict."""
    bound = 2 * PATIENCE.whole_check
    for seed in seeds:
        try:
            in_thread(partial(run_history, target, seed), f"history {seed}", bound)
        except Exception as exc:
            console.print(_explain(exc))
            console.print(f"history {seed} failed; --seed {seed} repeats it", style="bold red")
            return False
    if seeds:
        console.print(f"{len(seeds)} histories have an explanation", style="bold green")
    return True


def _summarize(console: Console, report: Report, clauses: Sequence[int]) -> None:
    """Print the counts, the clauses that nothing shows to hold, and the verdict."""
    console.print(
        f"\n{report.count('passed')} passed, {report.count('failed')} failed, "
        f"{report.count('not offered')} not offered"
    )
    unproven = report.unproven(clauses)
    if unproven:
        listed = ", ".join(map(str, unproven))
        console.print(f"nothing passed of clause {listed}", style="bold red")
    proven = len(clauses) - len(unproven)
    console.print(f"{proven} of {len(clauses)} clauses have a check that passed")
    if report.ok(clauses):
        console.print("every clause asked for holds", style="bold green")
    else:
        console.print("not every clause asked for is shown to hold", style="bold red")
