"""The wheel and the sdist: what is in them, and that nothing else is."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import streamstores

ROOT = Path(__file__).parents[2]
VERSION = streamstores.__version__
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(dist / f"streamstores-{VERSION}-py3-none-any.whl")


@pytest.fixture(scope="module")
def sdist(dist: Path) -> set[str]:
    with tarfile.open(dist / f"streamstores-{VERSION}.tar.gz") as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    top = f"streamstores-{VERSION}/"
    assert all(name.startswith(top) for name in names)
    return {name.removeprefix(top) for name in names}


def tracked(*folders: str) -> set[str]:
    """The files of the repository in these folders, or everywhere, and those not yet added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone of the repository")
    return {name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()}


def metadata(wheel: zipfile.ZipFile) -> Message:
    name = f"streamstores-{VERSION}.dist-info/METADATA"
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_has_the_package_with_its_data_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    package = {name.removeprefix("stores/") for name in tracked("stores")}
    assert {Path(name).suffix for name in package} >= {".py", ".sql", ".lua", ".js", ".html"}
    assert "streamstores/py.typed" in package
    info = {f"streamstores-{VERSION}.dist-info/{name}" for name in METADATA}
    assert set(wheel.namelist()) == package | info


def test_the_sdist_has_what_is_needed_to_test_and_to_document(sdist: set[str]) -> None:
    everything = tracked()
    assert sdist == everything | {"PKG-INFO"}


def test_the_metadata_names_the_extras_and_requires_nothing(wheel: zipfile.ZipFile) -> None:
    found = metadata(wheel)
    required = found.get_all("Requires-Dist") or []
    assert [each for each in required if "extra ==" not in each] == []
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.partition("[project.optional-dependencies]")[2].partition("\n# Where")[0]
    extras = re.findall(r"^([a-z0-9-]+) = \[", table, re.M)
    assert found.get_all("Provides-Extra") == sorted(extras)
    assert found["Requires-Python"] == ">=3.10"
    assert found["License-Expression"] == "MIT"


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    points = wheel.read(f"streamstores-{VERSION}.dist-info/entry_points.txt").decode()
    assert "streamstores = streamstores.cli:main" in points


def test_the_version_is_said_once(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel)["Version"] == VERSION
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r"^version = ", project, re.M) == []
    said = re.compile(rf"""__version__ = ["']|["']{re.escape(VERSION)}["']""")
    places = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "stores").rglob("*.py")
        if said.search(path.read_text(encoding="utf-8"))
    }
    assert places == {"stores/streamstores/__init__.py"}


def test_the_changes_and_the_npm_package_have_the_same_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changes, re.M)
    assert newest is not None
    assert newest[1] == VERSION
    package = (ROOT / "javascript" / "package.json").read_text(encoding="utf-8")
    assert f'"version": "{VERSION}"' in package
