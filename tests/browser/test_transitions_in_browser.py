"""Every row of tests/data/transitions.json in a real browser, against a scripted server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.browser.client import Client
from tests.browser.conftest import ROOT, shared_fixture
from tests.http.scripted_server import (
    DONE,
    GIVE_UP_SECONDS,
    PING,
    STOPPED,
    Exchange,
    ScriptedServer,
    event,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

TABLE = json.loads((ROOT / "tests/data/transitions.json").read_text())
STREAM_JS = Path(ROOT / "stores/streamstores/http/chat/stream.js").read_text()
ANSWERS = {"open", "open_unkept", "fail", "busy", "gone", "reject"}
LOOKS = {"look", "continued", "still_away", "back"}
PIECE = "a text"
STOP = "POST /stream/stop"
_numbers = count(1)


@shared_fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@shared_fixture
async def shared_client(browser: Any, scripted: ScriptedServer) -> AsyncIterator[Client]:
    """A page of the scripted server's origin; its files come from this test."""
    origin = scripted.endpoint.removesuffix("/stream")
    context = await browser.new_context()
    page = await context.new_page()

    async def answer(route: Any) -> None:
        is_module = route.request.url.endswith(".js")
        content_type = "text/javascript" if is_module else "text/html"
        await route.fulfill(body=STREAM_JS if is_module else "", content_type=content_type)

    await page.route(origin + "/page/**", answer)
    await page.goto(origin + "/page/")
    yield Client(page)
    await context.close()


class BrowserDriver:
    """Causes the events of the table, one by one."""

    def __init__(self, client: Client, server: ScriptedServer) -> None:
        self.client = client
        self.server = server
        self.offset = 0
        self._exchange: Exchange | None = None

    async def create(self, look_ms: int) -> None:
        await self.client.create(
            "/page/stream.js",
            endpoint="/stream",
            backoff=1,
            maxReconnects=TABLE["max_reconnects"],
            lookEvery=look_ms,
        )

    @property
    def exchange(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    async def cause(self, name: str) -> None:
        if name in ANSWERS:
            self._exchange = await self.server.next()
        await getattr(self, name)()

    async def send(self) -> None:
        await self._begin("send", "Why?")

    async def retry(self) -> None:
        await self._begin("retry")

    async def follow(self) -> None:
        await self._begin("follow", f"an id {next(_numbers)}")

    async def _begin(self, method: str, *args: str) -> None:
        self.server.forget()
        self.offset = 0
        await self.client.call(method, *args)
        self.server.expect(await self.client.page.evaluate("stream.streamId"))

    async def resume(self) -> None:
        await self.client.call("resume")

    async def abort(self) -> None:
        await self.client.call("abort")

    async def stop(self) -> None:
        if await self.client.page.evaluate("stream.loading"):
            await self._confirm_stop("stopped", STOPPED)
        else:
            assert await self.client.ask("stop") is True

    async def stop_late(self) -> None:
        await self._confirm_stop("done", DONE)

    async def _confirm_stop(self, state: str, events: bytes) -> None:
        asking = asyncio.ensure_future(self.client.ask("stop"))
        exchange = await self._next_stop()
        await exchange.answer(200, {"state": state, "tail": self.offset})
        await self.exchange.send(events)
        assert await asking is True

    async def stop_lost(self) -> None:
        asking = asyncio.ensure_future(self.client.ask("stop"))
        for _ in range(TABLE["max_reconnects"] + 1):
            (await self._next_stop()).cut()
        assert await asking is False

    async def _next_stop(self) -> Exchange:
        exchange = await self.server.next()
        assert exchange.request.label == STOP
        return exchange

    async def open(self) -> None:
        await self.exchange.open()
        await self.client.until_status("streaming")

    async def text(self) -> None:
        self.offset += len(PIECE)
        await self.exchange.send(event("", PIECE, self.offset))
        await self.client.until_offset(self.offset)

    async def ping(self) -> None:
        await self.exchange.send(PING)
        await self.text()  # arrives after it

    async def open_unkept(self) -> None:
        await self.exchange.open_unkept()
        await self.client.until_status("streaming")

    async def text_unkept(self) -> None:
        await self.exchange.send(event("", PIECE))
        await self.client.until("stream.text.endsWith(it)", PIECE)

    async def stop_unkept(self) -> None:
        assert await self.client.ask("stop") is True

    async def look(self) -> None:
        await (await self._next_look()).answer(200, {"state": "stopped", "tail": self.offset})

    async def continued(self) -> None:
        look = await self._next_look()
        await look.answer(200, {"state": "streaming", "tail": self.offset})
        await self.client.until("stream.loading")

    async def still_away(self) -> None:
        (await self._next_look()).cut()

    async def back(self) -> None:
        await self.continued()

    async def _next_look(self) -> Exchange:
        exchange = await self.server.next()
        assert exchange.request.label == "GET /stream/status"
        return exchange

    async def server_stopped(self) -> None:
        await self.exchange.send(STOPPED)

    async def server_error(self) -> None:
        await self.exchange.send(event("error", "it broke"), DONE)

    async def server_done(self) -> None:
        await self.exchange.send(DONE)

    async def cut(self) -> None:
        self.exchange.cut()
        await self.client.until("stream.status !== 'streaming'")

    async def end(self) -> None:
        await self.exchange.end()
        await self.client.until("stream.status !== 'streaming'")

    async def fail(self) -> None:
        self.exchange.cut()
        await self._settle()

    async def busy(self) -> None:
        await self.exchange.refuse(503, "store_unavailable", Retry_After=0)
        await self._settle()

    async def gone(self) -> None:
        await self.exchange.refuse(404, "not_found")

    async def reject(self) -> None:
        await self.exchange.refuse(403, "forbidden")

    async def _settle(self) -> None:
        """Wait until the client has asked again, or given up."""
        while await self.client.page.evaluate("stream.loading"):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.server.asked(), 0.01)
                return


async def requested(server: ScriptedServer, label: str) -> None:
    while not server.requests or server.requests[-1].label != label:
        await asyncio.sleep(0.001)


def name_of(row: dict[str, Any]) -> str:
    return f"{row['from']}-{'-'.join(row['on'])}-{row['to']}"


@pytest.mark.parametrize("row", TABLE["transitions"], ids=name_of)
async def test_the_client_moves_as_the_transition_table_says(
    row: dict[str, Any], shared_client: Client, scripted: ScriptedServer
) -> None:
    driver = BrowserDriver(shared_client, scripted)
    await driver.create(look_ms=1 if LOOKS & set(row["on"]) else 0)
    for name in TABLE["reach"][row["from"]]:
        await driver.cause(name)
    await shared_client.until_status(row["from"])
    for name in row["on"]:
        await driver.cause(name)
    await shared_client.until_status(row["to"])
    if row["to"] == "reconnecting":
        await asyncio.wait_for(scripted.asked(), GIVE_UP_SECONDS)
    snapshot = await shared_client.snapshot()
    expected = {"status": row["to"], **TABLE["states"][row["to"]]}
    expected["canResume"] = row.get("canResume", expected["canResume"])
    assert {name: snapshot[name] for name in expected} == expected
    if "request" in row:
        await asyncio.wait_for(requested(scripted, row["request"]), GIVE_UP_SECONDS)
    await shared_client.call("destroy")
