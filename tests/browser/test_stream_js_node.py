"""The JavaScript client without a browser: its tests in Node, its types with TypeScript."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.services import give_up

HERE = Path(__file__).parent
MODULE = HERE.parents[1] / "stores/streamstores/http/chat/stream.js"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        give_up(name, "it is not installed")
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("tests", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_the_client_passes_its_tests_in_node(tests: str) -> None:
    result = run(tool("node"), "--test", HERE / tests)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_client_has_types_that_typescript_accepts() -> None:
    result = run(
        tool("tsc"),
        *("--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"),
        *("--target", "es2022", "--module", "es2022", "--lib", "es2023,dom,dom.iterable"),
        MODULE,
    )
    assert result.returncode == 0, result.stdout
