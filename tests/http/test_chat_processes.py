"""The chat handler in several processes on one SQLite file: killed, restarted, raced."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import Chat
from tests.http.serving import KEEP_ALIVE, Events, Received, names, text_of

COUNT = 300
WHOLE = "".join(f"{number} " for number in range(COUNT))


class Process(Chat):
    """A uvicorn process, and a client for it."""

    child: asyncio.subprocess.Process

    async def end(self, number: int) -> int:
        self.child.send_signal(number)
        return await self.child.wait()


class Processes:
    """Starts processes on one file, and ends them."""

    def __init__(self, folder: Path, client: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self._client = client
        self._stack = stack
        self._calls = folder / "calls"
        self._calls.touch()
        self._environment = {
            **os.environ,
            "DATABASE": str(folder / "chat.db"),
            "CALLS": str(self._calls),
        }

    async def start(self, *options: str, **environment: str) -> Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "uvicorn", "--port", "0"),
            *KEEP_ALIVE,
            *options,
            "tests.http.counting_app:app",
            env={**self._environment, **environment},
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stderr is not None
        while b"Uvicorn running on" not in (line := await child.stderr.readline()):
            assert line, "uvicorn did not start"
        url = line.decode().partition("running on ")[2].split()[0]
        process = Process(None, url, self._client)  # type: ignore[arg-type]  # it is elsewhere
        process.child = child
        drain = asyncio.ensure_future(child.stderr.read())
        self._stack.push_async_callback(_end, child, drain)
        return process

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


async def _end(child: asyncio.subprocess.Process, log: asyncio.Future[bytes]) -> None:
    if child.returncode is None:
        child.kill()
    await child.wait()
    await log


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with httpx.AsyncClient(timeout=60) as client:
        async with AsyncExitStack() as children:
            yield Processes(tmp_path, client, children)


async def some(events: Events, count: int = 5) -> str:
    return "".join([(await events.next()).data for _ in range(count)])


async def rest_or_cut(events: Events) -> list[Received]:
    """The events until the body ends or the connection breaks."""
    received: list[Received] = []
    with suppress(httpx.HTTPError, StopAsyncIteration):
        while True:
            received.append(await anext(events))
    return received


async def test_a_killed_producer_is_replaced_by_exactly_one(processes: Processes) -> None:
    dying = await processes.start()
    others = [await processes.start() for _ in range(2)]
    async with dying.start(str(COUNT), id="s") as events:
        await events.next()
        head = await some(events)
        followers = [asyncio.ensure_future(follow_to_end(each, "s")) for each in others * 3]
        await asyncio.sleep(0)
        assert await dying.end(signal.SIGKILL) == -signal.SIGKILL
        head += text_of(await rest_or_cut(events))
    for text, ending in await asyncio.gather(*followers):
        assert (text, ending) == (WHOLE, ["done"])
    assert WHOLE.startswith(head)
    async with others[0].follow("s", len(head)) as events:
        assert head + text_of(await events.rest()) == WHOLE
    assert len(processes.calls) == 2


async def follow_to_end(process: Process, stream_id: str) -> tuple[str, list[str]]:
    async with process.follow(stream_id) as events:
        rest = await events.rest()
    return text_of(rest), [name for name in names(rest)[1:] if name != "message"]


async def test_a_killed_producer_that_cannot_continue_leaves_a_stopped_stream(
    processes: Processes,
) -> None:
    dying, other = await processes.start(), await processes.start()
    async with dying.start(str(COUNT), id="s", model="counting") as events:
        await events.next()
        head = await some(events)
        await dying.end(signal.SIGKILL)
        head += text_of(await rest_or_cut(events))
    text, ending = await follow_to_end(other, "s")
    assert ending == ["stopped", "done"]
    assert text.startswith(head)
    assert WHOLE.startswith(text)
    assert len(text) < len(WHOLE)
    async with other.resume("s") as events:  # the user's Continue finds nothing to call
        assert names(await events.rest())[-2:] == ["stopped", "done"]
    assert len(processes.calls) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_restarted_process_hands_its_streams_over(
    processes: Processes, number: int
) -> None:
    old, new = await processes.start(), await processes.start()
    async with old.start(str(COUNT), id="s") as events:
        await events.next()
        head = await some(events)
        ended = asyncio.ensure_future(old.end(number))
        received = await events.rest()  # the body ends, and without `done`
        assert "done" not in names(received)
        head += text_of(received)
        await ended
    async with new.follow("s", len(head)) as events:
        assert head + text_of(await events.rest()) == WHOLE
    assert len(processes.calls) == 2


@pytest.mark.parametrize("watches", [True, False], ids=["by the signal", "by the server"])
async def test_the_end_of_a_server_is_not_taken_for_clients_that_left(
    processes: Processes, watches: bool
) -> None:
    environment = {} if watches else {"WATCHES_NO_SIGNALS": "1"}
    old = await processes.start(
        *("--timeout-graceful-shutdown", "1"), CANCEL_ON_DISCONNECT="1", **environment
    )
    ids = [f"s{number}" for number in range(6)]
    async with AsyncExitStack() as stack:
        answers = []
        for stream_id in ids:
            events = await stack.enter_async_context(old.start(str(COUNT), id=stream_id))
            await events.next(), await events.next()
            answers.append(events)
        ended = asyncio.ensure_future(old.end(signal.SIGTERM))
        for events in answers:
            received = await rest_or_cut(events)
            assert "stopped" not in names(received)
        await ended
    new = await processes.start()
    for stream_id in ids:
        text, ending = await follow_to_end(new, stream_id)
        assert (text, ending) == (WHOLE, ["done"])


async def test_a_restarted_process_stops_streams_that_cannot_continue(
    processes: Processes,
) -> None:
    old, new = await processes.start(), await processes.start()
    async with old.start(str(COUNT), id="s", model="counting") as events:
        await events.next()
        head = await some(events)
        ended = asyncio.ensure_future(old.end(signal.SIGTERM))
        head += text_of(await events.rest())
        await ended
    text, ending = await follow_to_end(new, "s")
    assert ending == ["stopped", "done"]
    assert text.startswith(head)


async def test_stop_and_continue_reach_the_process_that_has_the_model(
    processes: Processes,
) -> None:
    producing, other = await processes.start(), await processes.start()
    async with producing.start(str(COUNT), id="s", model="counting") as events:
        await events.next()
        await some(events)
        status = (await other.post("/stream/stop", id="s")).json()
        assert status["state"] == "stopped"
        assert names(await events.rest())[-2:] == ["stopped", "done"]
    async with other.resume("s") as events:
        assert text_of(await events.rest()) == WHOLE
    assert len(processes.calls) == 1


async def test_a_stopped_stream_continues_after_a_restart(processes: Processes) -> None:
    old, new = await processes.start(), await processes.start()
    messages = [{"role": "user", "content": "x" * 1000}] * 100  # more than attributes hold
    async with old.start(str(COUNT), id="s", messages=messages) as events:
        await events.next()
        await some(events)
        await new.post("/stream/stop", id="s")
        await events.rest()
    assert await old.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    texts = await asyncio.gather(*(continue_to_end(new, "s") for _ in range(6)))
    assert texts == [WHOLE] * 6
    assert [call.split()[1] for call in processes.calls] == ["100", "100"]


async def continue_to_end(process: Process, stream_id: str) -> str:
    async with process.resume(stream_id) as events:
        return text_of(await events.rest())
