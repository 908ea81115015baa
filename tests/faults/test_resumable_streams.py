"""An application's own endpoints in several processes: one is killed, joined late, stopped."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import httpx
import pytest

from tests.http.serving import KEEP_ALIVE

COUNT = 300

WHOLE = [f"{number:04}" for number in range(COUNT)]


class Process(NamedTuple):
    url: str
    child: asyncio.subprocess.Process
    client: httpx.AsyncClient

    async def read(self, method: str, path: str, *, last_id: str = "", until: int = COUNT):
        """The numbers of a response and its last event's id. It is left after `until` of them;
        a cut connection ends it."""
        text = ""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with suppress(httpx.HTTPError):
            async with self.client.stream(method, self.url + path, headers=headers) as response:
                assert response.status_code in (200, 404), await response.aread()
                async for part in response.aiter_text():
                    text += part
                    if text.count("\n\n") >= until:
                        break
        text = text[: text.rfind("\n\n") + 2]
        ids = re.findall(r"^id: (\d+)$", text, re.MULTILINE)
        return re.findall(r"^data: (.*)$", text, re.MULTILINE), ids[-1] if ids else last_id


@pytest.fixture
async def start(store_url: str) -> AsyncIterator:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))

        async def start() -> Process:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "uvicorn", "--port", "0"),
                *KEEP_ALIVE,
                "tests.faults.resumable_app:app",
                env={**os.environ, "STORE": store_url, "COUNT": str(COUNT)},
                stderr=asyncio.subprocess.PIPE,
            )
            assert child.stderr is not None
            log = b""
            while b"Uvicorn running on" not in (line := await child.stderr.readline()):
                log += line
                assert line, log.decode()
            drain = asyncio.ensure_future(child.stderr.read())
            stack.push_async_callback(_end, child, drain)
            url = line.decode().partition("running on ")[2].split()[0]
            return Process(url, child, client)

        yield start


async def _end(child: asyncio.subprocess.Process, log: asyncio.Future[bytes]) -> None:
    if child.returncode is None:
        child.kill()
    await child.wait()
    await log


async def test_a_killed_producer_is_continued_and_every_client_gets_each_number_once(start):
    dying, other = await start(), await start()
    head, last_id = await dying.read("POST", "/numbers/continued", until=20)
    late = [
        asyncio.ensure_future(other.read("GET", "/numbers/continued")),
        asyncio.ensure_future(other.read("GET", "/numbers/continued", last_id=last_id)),
    ]
    await asyncio.sleep(0)
    dying.child.send_signal(signal.SIGKILL)
    whole, rest = await asyncio.gather(*late)
    assert whole[0] == WHOLE
    assert head + rest[0] == WHOLE


async def test_a_producer_that_cannot_be_continued_leaves_its_text_and_no_reader_hangs(
    start,
):
    dying, other = await start(), await start()
    head, last_id = await dying.read("POST", "/numbers/once", until=20)
    dying.child.send_signal(signal.SIGKILL)
    rest, _ = await asyncio.wait_for(
        other.read("GET", "/numbers/once", last_id=last_id), timeout=60
    )
    assert head + rest == WHOLE[: len(head + rest)]


async def test_a_stop_in_another_process_ends_the_response(start):
    producing, other = await start(), await start()
    reading = asyncio.ensure_future(producing.read("POST", "/numbers/stopped"))
    while not (await other.read("GET", "/numbers/stopped", until=5))[0]:
        await asyncio.sleep(0.01)
    answer = await other.client.post(other.url + "/numbers/stopped/stop")
    assert answer.json() == {"state": "stopped"}
    said, _ = await asyncio.wait_for(reading, timeout=60)
    assert said == WHOLE[: len(said)]
    assert len(said) < COUNT
