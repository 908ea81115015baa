"""Clients that are packages of npm, run by Node."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.services import PATIENCE, give_up, given_url


def script_with_package(script: Path, package: str, folder: Path) -> Path:
    """A copy of the script in a folder in which Node finds its package. Skips the test without
    Node or npm.

    The package (`name@major`) comes from npm, or from the folder that
    `STREAMSTORES_TEST_<NAME>` names, with the scope's name without its sign.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            give_up(tool, "it is not installed")
    name = package.rpartition("@")[0]
    folder = Path(given_url(name.partition("/")[0].removeprefix("@")) or folder)
    if not (folder / "node_modules" / name).exists():
        install = ("npm", "install", "--no-audit", "--no-fund", package)
        result = subprocess.run(
            install, cwd=folder, capture_output=True, text=True, timeout=240, check=False
        )
        if result.returncode != 0:
            give_up("npm", result.stderr[-500:])
    return Path(shutil.copy(script, folder))


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
