"""The workflows of CI and of a release name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(request.param.read_text(encoding="utf-8"))
    return found


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_one_for_changes_and_one_for_releases() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "release"]


def test_by_default_a_job_may_only_read(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}


def test_each_step_runs_something_or_uses_an_action_of_a_version(
    workflow: dict[Any, Any],
) -> None:
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])


def test_the_scripts_and_environments_that_it_runs_exist(workflow: dict[Any, Any]) -> None:
    commands = "\n".join(step["run"] for step in steps(workflow) if "run" in step)
    scripts = re.findall(r"(?<![\w/])\.ci/\w+", commands)
    assert all((ROOT / script).is_file() for script in scripts)
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    names = re.findall(r"tox run -e ([a-z-]+)", commands)
    matrix = workflow["jobs"].get("drivers", {}).get("strategy", {}).get("matrix", {})
    for name in [*names, *matrix.get("environment", [])]:
        family = re.sub(r"^drivers-.*", "drivers-{lowest,newest,hiredis}", name)
        assert f"[testenv:{family}]" in tox


def test_needed_jobs_exist(workflow: dict[Any, Any]) -> None:
    for job in workflow["jobs"].values():
        needs = job.get("needs", [])
        for name in [needs] if isinstance(needs, str) else needs:
            assert name in workflow["jobs"]


def test_a_release_is_a_tag_and_is_checked_before_it_is_published() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as a truth value
    assert release["jobs"]["publish"]["needs"] == "build"
    said = [step.get("run", "") for step in release["jobs"]["build"]["steps"]]
    assert any('.ci/release "$GITHUB_REF_NAME"' in line for line in said)
