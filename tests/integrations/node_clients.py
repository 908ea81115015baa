"""Clients that are packages of npm, run by Node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.services import PATIENCE
from tests.services.npm import installed


def script_with_package(script: Path, package: str, temporary: pytest.TempPathFactory) -> Path:
    """A copy of the script in a folder in which Node finds its package. Skips the test without
    Node or npm.

    The package (`name@major`) comes from npm, or from the folder that
    `STREAMSTORES_TEST_<NAME>` names, with the scope's name without its sign.
    """
    name = package.partition("/")[0].removeprefix("@")
    return installed(temporary, name, package, beside=(script,)) / script.name


async def told_by(script: Path, **options: Any) -> dict[str, Any]:
    """Run a client to its end; the JSON that it prints."""
    given = [f"--{name}={value}" for name, value in options.items()]
    child = await asyncio.create_subprocess_exec(
        *("node", script, *given),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await asyncio.wait_for(child.communicate(), PATIENCE)
    assert child.returncode == 0, errors.decode()
    found: dict[str, Any] = json.loads(told)
    return found
