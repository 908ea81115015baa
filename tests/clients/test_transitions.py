"""Every row of tests/data/transitions.json, run with the Python client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from streamstores.client import Status, Stream, StreamError
from tests.clients.waiting import until
from tests.http.scripted_server import (
    DONE,
    GIVE_UP_SECONDS,
    PING,
    STOPPED,
    Exchange,
    ScriptedServer,
    event,
)

TABLE = json.loads((Path(__file__).parents[1] / "data" / "transitions.json").read_text())


class PythonDriver:
    """Causes the events of the table, one by one."""

    def __init__(self, stream: Stream, server: ScriptedServer) -> None:
        self.stream = stream
        self.server = server
        self.current: Exchange | None = None  # what the client reads now
        self.offset = 0
        self.watching: asyncio.Task[bool] | None = None

    async def cause(self, name: str) -> None:
        await getattr(self, name)()
        await asyncio.wait_for(self._quiet(), GIVE_UP_SECONDS)

    async def _quiet(self) -> None:
        """Wait until the client waits for the test: it reads, has asked, or is at an end."""
        if self.current is None and self.stream.loading:
            ended = asyncio.create_task(until(self.stream, lambda: not self.stream.loading))
            asked = asyncio.create_task(self.server.asked())
            await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            ended.cancel()

    def _take_current(self) -> Exchange:
        current, self.current = self.current, None
        assert current is not None
        return current

    async def _begin(self, beginning: Awaitable[object]) -> None:
        self.current, self.offset = None, 0
        self.server.forget()
        await beginning
        self.server.expect(self.stream.stream_id)

    async def send(self) -> None:
        await self._begin(self.stream.send("hello"))

    async def follow(self) -> None:
        await self._begin(self.stream.attach("persisted"))

    async def resume(self) -> None:
        await self.stream.resume()

    async def retry(self) -> None:
        await self._begin(self.stream.retry())

    async def abort(self) -> None:
        await self.stream.abort()

    async def stop(self) -> None:
        await self._stop("stopped", STOPPED)

    async def stop_late(self) -> None:
        await self._stop("done", DONE)

    async def _stop(self, state: str, ending: bytes) -> None:
        stopping = asyncio.create_task(self.stream.stop())
        if self.stream.loading:
            command = await self.server.next()
            await command.answer(200, {"id": command.request.stream_id, "state": state})
            await self._take_current().send(ending)
        await asyncio.wait_for(stopping, GIVE_UP_SECONDS)

    async def stop_lost(self) -> None:
        stopping = asyncio.create_task(self.stream.stop())
        for _ in range(1 + TABLE["max_reconnects"]):
            (await self.server.next()).cut()
        with pytest.raises(StreamError) as raised:
            await asyncio.wait_for(stopping, GIVE_UP_SECONDS)
        assert raised.value.code == "disconnected"

    async def open(self) -> None:
        self.current = await self.server.next()
        await self.current.open()
        await until(self.stream, lambda: self.stream.status is Status.STREAMING)

    async def text(self) -> None:
        assert self.current is not None
        self.offset += 3
        await self.current.send(event("", "abc", self.offset))
        await until(self.stream, lambda: self.stream.offset == self.offset)

    async def ping(self) -> None:
        assert self.current is not None
        await self.current.send(PING)

    async def open_unkept(self) -> None:
        self.current = await self.server.next()
        await self.current.open_unkept()
        await until(self.stream, lambda: self.stream.status is Status.STREAMING)

    async def text_unkept(self) -> None:
        assert self.current is not None
        before = self.stream.text
        await self.current.send(event("", "abc"))
        await until(self.stream, lambda: self.stream.text == before + "abc")

    async def stop_unkept(self) -> None:
        await asyncio.wait_for(self.stream.stop(), GIVE_UP_SECONDS)

    async def look(self) -> None:
        await (await self._next_look()).answer(200, {"state": "stopped", "tail": self.offset})

    async def continued(self) -> None:
        await (await self._next_look()).answer(200, {"state": "streaming", "tail": self.offset})
        await self._until_loading()

    async def still_away(self) -> None:
        (await self._next_look()).cut()

    async def back(self) -> None:
        await self.continued()

    async def _next_look(self) -> Exchange:
        if self.watching is None:
            watching = self.stream.until_continued(interval=0.001)
            self.watching = asyncio.create_task(watching)
        exchange = await self.server.next()
        assert exchange.request.label == "GET /stream/status"
        return exchange

    async def _until_loading(self) -> None:
        assert self.watching is not None
        assert await asyncio.wait_for(self.watching, GIVE_UP_SECONDS) is True

    async def server_stopped(self) -> None:
        await self._take_current().send(STOPPED)

    async def server_error(self) -> None:
        await self._take_current().send(event("error", "the model broke"), DONE)

    async def server_done(self) -> None:
        await self._take_current().send(DONE)

    async def cut(self) -> None:
        self._take_current().cut()

    async def end(self) -> None:
        await self._take_current().end()

    async def fail(self) -> None:
        (await self.server.next()).cut()

    async def busy(self) -> None:
        await (await self.server.next()).refuse(503, "store_unavailable", Retry_After=0)

    async def gone(self) -> None:
        await (await self.server.next()).refuse(404, "not_found")

    async def reject(self) -> None:
        await (await self.server.next()).refuse(403, "forbidden")


def describe(row: dict[str, Any]) -> str:
    return f"{row['from']}: {', '.join(row['on'])} -> {row['to']}"


@pytest.mark.parametrize("row", TABLE["transitions"], ids=describe)
async def test_the_client_moves_as_the_table_says(
    stream: Stream, server: ScriptedServer, row: dict[str, Any]
) -> None:
    driver = PythonDriver(stream, server)
    for name in TABLE["reach"][row["from"]]:
        await driver.cause(name)
    assert stream.status == row["from"]
    for name in row["on"]:
        await driver.cause(name)
    expected = TABLE["states"][row["to"]]
    assert stream.status == row["to"]
    assert stream.loading is expected["loading"]
    assert stream.can_resume is row.get("canResume", expected["canResume"])
    if "request" in row:
        assert server.requests[-1].label == row["request"]
    if driver.watching is not None:
        driver.watching.cancel()


def test_the_table_has_a_row_for_every_state() -> None:
    reached = {row["to"] for row in TABLE["transitions"]}
    assert reached == set(TABLE["states"]) == {str(status) for status in Status}
