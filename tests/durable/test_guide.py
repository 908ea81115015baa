"""The commands in docs/durable-streams.md, typed as they stand there, print what it shows."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.http.serving import serving

GUIDE = Path(__file__).parents[2] / "docs" / "durable-streams.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
PYTHON = next(code for language, code in BLOCKS if language == "python")
COMMANDS = next(code for language, code in BLOCKS if "curl" in code and language == "console")
STEPS = re.findall(r"^\$ (curl [^\n]*)\n(.*?)(?=^\$ |\Z)", COMMANDS, re.M | re.S)
GIVE_UP_SECONDS = 60


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_print_what_the_guide_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(PYTHON, GUIDE, "exec"), names)
    assert len(STEPS) == 5
    async with serving(names["app"]) as url:
        port = url.rpartition(":")[2]
        for command, shown in STEPS:
            lines = [line for line in shown.replace(":8000", f":{port}").splitlines() if line]
            is_live = " -N " in command
            until = comparable(lines[-1]) if is_live else None
            reading = lines_of(command.replace(":8000", f":{port}"), until)
            printed = await asyncio.wait_for(reading, GIVE_UP_SECONDS)
            assert missing(lines, printed) == [], (command, printed)


async def lines_of(command: str, until: str | None) -> list[str]:
    """What the command prints: to its end, or to a line of a response that does not end."""
    process = await asyncio.create_subprocess_shell(
        f"exec {command}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    lines = []
    try:
        async for line in process.stdout:
            lines.append(line.decode().strip())
            if comparable(lines[-1]) == until:
                break
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return lines


def missing(shown: list[str], printed: list[str]) -> list[str]:
    found = {comparable(line) for line in printed}
    return [line for line in shown if comparable(line) not in found]


def comparable(line: str) -> str:
    """The line without what differs from one time to the next."""
    return re.sub(r'"streamCursor":"\d+"', '"streamCursor":"…"', line.strip()).lower()
