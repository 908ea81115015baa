"""Several processes on one store: races, kills, and reads through another process."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import httpx

from tests.durable.client import CLOSED, JSON, producer
from tests.durable.conftest import Process, Spawn


async def posted(process: Process, path: str, body: bytes, **headers: str) -> int | None:
    """The status; None if the process died."""
    try:
        return (await process.post(path, body, **headers)).status_code
    except httpx.HTTPError:
        return None


async def test_a_request_repeated_in_several_processes_is_applied_once(spawn: Spawn) -> None:
    one, two = await asyncio.gather(spawn(), spawn())
    await one.put("s", b"", **JSON)
    for seq in range(15):
        headers = {**JSON, **producer(seq)}
        posts = [posted(each, "s", b"%d" % seq, **headers) for each in (one, two) * 3]
        statuses = await asyncio.gather(*posts)
        assert sorted(map(str, statuses)) == ["200", *["204"] * 5]
    assert (await two.get("s")).json() == [*range(15)]


async def test_plain_appends_of_two_processes_are_all_there_once(spawn: Spawn) -> None:
    processes = await asyncio.gather(spawn(), spawn())
    await processes[0].put("s", b"", **JSON)

    async def write(process: Process, name: int) -> None:
        for n in range(15):
            assert await posted(process, "s", b"[%d,%d]" % (name, n), **JSON) == 204

    await asyncio.gather(*(write(processes[name % 2], name) for name in range(6)))
    numbers = (await processes[1].get("s")).json()
    pairs = [*zip(numbers[::2], numbers[1::2], strict=True)]
    for name in range(6):
        assert [n for each, n in pairs if each == name] == [*range(15)]


async def test_a_producer_goes_on_elsewhere_when_its_server_is_killed(spawn: Spawn) -> None:
    """Each request is sent again to the other until it is answered, as a client does."""
    one, two = await asyncio.gather(spawn(), spawn())
    await two.put("s", b"", **JSON)
    dying = asyncio.get_running_loop().call_later(0.3, one.child.kill)
    for seq in range(1000):
        headers = {**JSON, **producer(seq)}
        status = await posted(one, "s", b"%d" % seq, **headers)
        if status is None:
            assert await posted(two, "s", b"%d" % seq, **headers) in (200, 204)
            break
        assert status == 200
    else:
        raise AssertionError("the process was not killed in time")
    dying.cancel()
    await one.child.wait()
    assert (await two.get("s")).json() == [*range(seq + 1)]


async def test_readers_in_another_process_get_new_records(spawn: Spawn) -> None:
    one, two = await asyncio.gather(spawn(), spawn())
    await one.put("s", b"", **JSON)

    async def read() -> list[int]:
        numbers: list[int] = []
        async with two.live("s") as events:
            while True:
                event = await anext(events)
                if event.name == "data":
                    numbers += json.loads(event.data)
                elif "streamClosed" in json.loads(event.data):
                    return numbers

    async def poll() -> list[int]:
        numbers: list[int] = []
        offset = "-1"
        while True:
            response: Any = await two.get("s", offset=offset, live="long-poll")
            numbers += response.json() if response.status_code == 200 else []
            offset = response.headers["stream-next-offset"]
            if response.headers.get("stream-closed") == "true":
                return numbers

    readers = [asyncio.ensure_future(each()) for each in (read, read, poll, poll)]
    for n in range(20):
        await one.post("s", b"%d" % n, **JSON)
    await one.post("s", **CLOSED)
    assert await asyncio.gather(*readers) == [[*range(20)]] * 4


async def test_a_process_that_gets_sigterm_ends_its_readers_responses(spawn: Spawn) -> None:
    one = await spawn()
    await one.put("s", b"1", **JSON)
    async with one.live("s") as events:
        assert json.loads((await anext(events)).data) == [1]
        one.child.terminate()
        assert [event.name for event in await events.rest()] == ["control"]
    assert await asyncio.wait_for(one.child.wait(), 30) in (0, -signal.SIGTERM)
