"""The command line's app and its entry point.

Each command is added to the app by a function of its own, which imports Typer and Rich: the
core install has neither, and `main` then says what to install.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from streamstores.cli.append import add_append
from streamstores.cli.archive_commands import add_archive_commands
from streamstores.cli.bench import add_bench
from streamstores.cli.check import CheckEnded, add_check
from streamstores.cli.copy import add_copy
from streamstores.cli.demonstration import add_demo
from streamstores.cli.doctor import add_doctor
from streamstores.cli.migration import add_migrate
from streamstores.cli.service import add_serve
from streamstores.cli.streams import add_stream_commands
from streamstores.cli.tail import add_tail

if TYPE_CHECKING:
    import typer

__all__ = ["build_app", "main"]

_EXIT_SECONDS = 1.0


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

    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @app.callback()
    def streamstores() -> None:
        """Resumable streams on the storage you already run."""

    add_check(app)
    add_demo(app)
    add_serve(app)
    add_doctor(app)
    add_bench(app)
    add_migrate(app)
    add_stream_commands(app)
    add_tail(app)
    add_append(app)
    add_copy(app)
    add_archive_commands(app)
    return app
