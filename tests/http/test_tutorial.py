"""The tutorial, done as it says: its files, its commands, its killed server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.services import free_port

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"^Save this as `([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", TUTORIAL, re.M | re.S)
)
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", TUTORIAL, re.M | re.S)
    for line in block.splitlines()
]
COUNTED = "".join(f"{number} " for number in range(1, 61))


class Terminal:
    """The tutorial's folder, and the commands that are typed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: list[asyncio.subprocess.Process] = []
        for name, text in FILES.items():
            # Faster than a reader wants it, and on a port that is free.
            text = text.replace("sleep(0.25)", "sleep(0.1)").replace(":8000", f":{self.port}")
            (folder / name).write_text(text, encoding="utf-8")

    async def type(self, command: str) -> asyncio.subprocess.Process:
        assert command in COMMANDS or command in TUTORIAL
        program, *arguments = command.split()
        if program == "uvicorn":
            arguments = ["-m", "uvicorn", *arguments, "--port", str(self.port)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    async def start_server(self) -> int:
        """The number of its process, as it prints it."""
        server = await self.type("uvicorn app:app")
        assert server.stdout is not None
        first = (await server.stdout.readline()).decode()
        found = re.search(r"\[(\d+)\]$", first.strip())
        assert found is not None, first
        while b"running" not in (line := await server.stdout.readline()):
            assert line, "the server did not start"
        return int(found[1])

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    await terminal.close()


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    """What the process has printed, when it ends with `text`."""
    assert process.stdout is not None
    printed = b""
    while not printed.endswith(text.encode()):
        byte = await process.stdout.read(1)
        assert byte, f"it ended after {printed.decode()}"
        printed += byte
    return printed.decode()


async def test_the_answer_is_whole_although_its_server_was_killed(terminal: Terminal) -> None:
    assert "kill -9 4711" in COMMANDS
    number = await terminal.start_server()
    client = await terminal.type("python ask.py")
    printed = await read_until(client, " 10 ")
    os.kill(number, signal.SIGKILL)
    await terminal.start_server()
    assert client.stdout is not None
    text, _, last = (printed + (await client.stdout.read()).decode()).partition("\n")
    assert text == COUNTED
    assert last.startswith(f"done: {len(COUNTED)} bytes of ")
    look = await terminal.type("python look.py")
    said, _ = await look.communicate()
    # A SQLite with a known bug is warned of first.
    assert said.decode().endswith(f"done {len(COUNTED)} b'1 ' b'60 '\n")


async def test_the_page_is_served(terminal: Terminal) -> None:
    await terminal.start_server()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{terminal.port}") as client:
        assert (await client.get("/")).text == FILES["index.html"]
        assert (await client.get("/chat/stream.js")).status_code == 200


def test_it_names_the_files_and_commands_that_a_reader_needs() -> None:
    assert list(FILES) == ["app.py", "ask.py", "index.html", "look.py"]
    assert [line for line in COMMANDS if "uvicorn" in line or "python " in line] == [
        'pip install -e ".[sqlite,http,client]" uvicorn',
        "uvicorn app:app",
        "python ask.py",
        "uvicorn app:app",
    ]
