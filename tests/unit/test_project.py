"""Rules of the repository that no other tool checks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "benchmarks", "examples", "stores", "tests")
SUFFIXES = {".css", ".html", ".js", ".jsx", ".lua", ".mjs", ".py", ".sql", ".ts"}
SKIPPED = {"node_modules", "results"}


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*pytest.*$", readme, re.M)
    assert len(commands) == 1
    in_ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert in_ci.count(commands[0]) == 1


@pytest.mark.parametrize(
    "script", [".ci/run", ".ci/checks", ".ci/documentation.py", ".ci/prose.py", ".ci/release"]
)
def test_scripts_of_ci_are_executable(script: str):
    assert (ROOT / script).stat().st_mode & 0o111


def test_the_lowest_versions_of_ci_are_those_that_the_package_allows():
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\ndemo =")[0]
    allowed = re.findall(r'"([a-z0-9-]+)>=([0-9.]+)', extras)
    lowest = re.findall(
        r"^([a-z0-9-]+)==([0-9.]+)$", (ROOT / ".ci/lowest.txt").read_text(), re.M
    )
    assert {name: _padded(version) for name, version in allowed} == dict(lowest)


def test_no_file_has_more_than_450_lines():
    found = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    sources = [
        path for path in found if path.suffix in SUFFIXES and not SKIPPED & {*path.parts}
    ]
    assert len(sources) > 300
    lengths = {str(path.relative_to(ROOT)): _lines(path) for path in sources}
    too_long = {name for name, length in lengths.items() if length > 450}
    assert too_long == {"stores/streamstores/http/chat/stream.js"}  # one ES module, not built


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _padded(version: str) -> str:
    return ".".join([*version.split("."), "0", "0"][:3])


def test_no_two_classes_of_the_package_have_the_same_name():
    found = Counter(
        name
        for path in (ROOT / "stores").rglob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.M)
    )
    assert [name for name, count in found.items() if count > 1] == []


def test_no_page_makes_markup_of_text():
    folders = (ROOT / "stores", ROOT / "examples")
    pages = [each for folder in folders for each in folder.rglob("*.*")]
    pages = [each for each in pages if each.suffix in {".js", ".html"}]
    assert len(pages) > 3
    markup = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(")
    found = [each for each in pages if markup.search(each.read_text(encoding="utf-8"))]
    assert found == []
