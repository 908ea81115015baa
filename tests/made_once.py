"""What takes long to make is made once for all workers of a test run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

__all__ = ["made_once"]


def made_once(
    temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """The folder `name`, which `make` fills for the first worker that asks.

    The others wait for it. If `make` raises, the next one that asks tries again.
    """
    run = temporary.getbasetemp()
    if run.name.startswith("popen-"):  # a worker's own folder, in that of the run
        run = run.parent
    folder, whole = run / name, run / f"{name}.whole"
    with FileLock(run / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
