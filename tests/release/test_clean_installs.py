"""Each extra alone, installed from the wheel in an environment that has nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from streamstores import __version__
from tests.release.conftest import ROOT
from tests.release.quick_starts import QUICK_STARTS, of_an_extra
from tests.services import free_port

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TABLE = PROJECT.partition("[project.optional-dependencies]")[2].partition("\n# Where")[0]
EXTRAS = ["", *(set(re.findall(r"^([a-z0-9-]+) = \[", TABLE, re.M)) - {"dev"})]

OF_CI = {"", "sqlite"}
"""The extras whose installation is tried on each change, and not only for a release."""


def test_every_quick_start_is_that_of_an_extra() -> None:
    assert set(QUICK_STARTS) <= set(EXTRAS)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(
            extra,
            id=extra or "nothing",
            marks=pytest.mark.long if extra in OF_CI else pytest.mark.release,
        )
        for extra in sorted(EXTRAS)
    ],
)
def test_an_extra_alone_is_enough_for_its_quick_start(
    extra: str, dist: Path, tmp_path: Path
) -> None:
    start = of_an_extra(extra)
    python = clean_environment(tmp_path / "venv")
    wheel = dist / f"streamstores-{__version__}-py3-none-any.whl"
    pip(python, f"{wheel}[{extra}]" if extra else str(wheel))
    for package in start.besides:
        pip(python, "--no-deps", package)
    program = tmp_path / "quick_start.py"
    program.write_text(start.program, encoding="utf-8")
    with start.service() as url:
        argument = url or str(free_port())
        run = subprocess.run(
            [python, "-I", program, argument],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert run.returncode == 0, run.stdout + run.stderr
    assert start.shows in run.stdout


def clean_environment(folder: Path) -> Path:
    """The interpreter of a new environment with pip and nothing else."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def pip(python: Path, *arguments: str) -> None:
    """Install, quietly unless it fails."""
    command = [python, "-m", "pip", "install", "--quiet", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
