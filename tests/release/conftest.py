"""The wheel and the sdist that the tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made_once import made_once

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, as `STREAMSTORES_DIST` names it, or else built for these tests."""
    if named := os.environ.get("STREAMSTORES_DIST"):
        return Path(named)
    return made_once(tmp_path_factory, "dist", build)


def build(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=240,
    )
