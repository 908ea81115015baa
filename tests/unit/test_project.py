"""Rules of the repository that no other tool checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*pytest.*$", readme, re.M)
    assert len(commands) == 1
    in_ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert in_ci.count(commands[0]) == 1


@pytest.mark.parametrize("script", [".ci/run", ".ci/checks", ".ci/prose.py"])
def test_scripts_of_ci_are_executable(script: str):
    assert (ROOT / script).stat().st_mode & 0o111
