"""The command line as a process of its own, and what the tests put into its stores."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from streamstores import StreamStore, open_store

COMMAND = [sys.executable, "-c", "from streamstores.cli import main; main()"]


def start(*arguments: object, url: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """Start a command with pipes for all three, and `env` added to its environment."""
    more = options.pop("env", {})
    environment: Mapping[str, str] = {**os.environ, "STREAMSTORES_URL": url, **more}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment, **{**pipes, **options}
    )


def run(
    *arguments: object, url: str = "", data: bytes = b"", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end. No command may ever end with a traceback."""
    with start(*arguments, url=url, **options) as process:
        output, errors = process.communicate(data, timeout=300)
    assert b"Traceback" not in errors, errors.decode()
    code = process.returncode
    return subprocess.CompletedProcess(process.args, code, output, messages(errors))


def with_small_files(size: int) -> Callable[[], None]:
    """A `preexec_fn`: no file of the process grows beyond so many bytes, as on a full disk."""

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return bound


def messages(errors: bytes) -> bytes:
    """What a command has written to stderr, without the warning about some SQLite libraries."""
    lines = errors.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"SQLite 3."))


def use(url: str, action: Callable[[StreamStore], Any]) -> Any:
    """The result of an async function that is called with the store."""

    async def call() -> Any:
        async with open_store(url) as store:
            return await action(store)

    return asyncio.run(call())


async def content(store: StreamStore, stream_id: str) -> bytes:
    data, offset = b"", 0
    while True:
        page = await store.read(stream_id, offset)
        data += b"".join(record.data for record in page.records)
        offset = page.next_offset
        if offset == page.info.tail:
            return data


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        time.sleep(0.02)
