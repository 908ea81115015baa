"""Packages of npm, installed once for all workers of a test run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.made_once import made_once
from tests.services import give_up, given_url

__all__ = ["filled", "install", "installed", "tool"]


def tool(name: str) -> str:
    """The path of a program. Skips the test without it."""
    path = shutil.which(name)
    if path is None:
        give_up(name, "it is not installed")
    return path


def installed(
    temporary: pytest.TempPathFactory, name: str, *packages: str, beside: tuple[Path, ...] = ()
) -> Path:
    """The folder with these packages in its `node_modules`, and copies of files beside that;
    see `filled`. In the one that the variable names they may be installed."""
    return filled(temporary, name, partial(_fill, packages, beside))


def filled(
    temporary: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]
) -> Path:
    """The folder that `STREAMSTORES_TEST_<NAME>` names, or else a new one that all tests of a
    run share, filled by `fill`."""
    given = given_url(name)
    if given is None:
        return made_once(temporary, name, fill)
    fill(Path(given))
    return Path(given)


def install(folder: Path, *packages: str | Path) -> None:
    """Install packages in a folder, or what its `package.json` names. Skips the test without
    Node, npm or npm's server."""
    tool("node")
    command = (tool("npm"), "install", "--no-audit", "--no-fund", *packages)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode != 0:
        give_up("npm", done.stderr[-500:])


def _fill(packages: tuple[str, ...], beside: tuple[Path, ...], folder: Path) -> None:
    for path in beside:
        shutil.copy(path, folder)
    if not (folder / "node_modules").exists():
        # npm would install them in the next folder above that has one.
        (folder / "package.json").write_text("{}")
        install(folder, *packages)
