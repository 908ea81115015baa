"""The event store for MCP: the SDK's own server and client, on connections that break."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from streamstores import MemoryStreamStore, State, open_store
from tests.http.cutting_proxy import cutting_proxy
from tests.http.serving import serving
from tests.integrations.conftest import SHARED_STORES, new_store_url
from tests.integrations.mcp_app import make_app
from tests.integrations.processes import start_process

APP = "tests.integrations.mcp_app:app"
IS_MCP_1 = version("mcp").startswith("1.")
PROTOCOL = "2025-11-25"


@pytest.fixture
def until(tmp_path: Path) -> Path:
    """The file for which the tool `finish` waits."""
    return tmp_path / "until"


@pytest.fixture(params=["memory", *SHARED_STORES])
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """The URL of an empty store; None for memory."""
    if request.param == "memory":
        yield None
    else:
        with new_store_url(request.param, tmp_path) as url:
            yield url


@pytest.fixture
async def url(any_store_url: str | None, until: Path) -> AsyncIterator[str]:
    """A server of the SDK on every kind of store; on memory in this process."""
    async with AsyncExitStack() as stack:
        if any_store_url is None:
            store = await stack.enter_async_context(MemoryStreamStore())
            yield await stack.enter_async_context(serving(make_app(store, until=until)))
        else:
            client = await stack.enter_async_context(httpx.AsyncClient())
            environment = {"STORE": any_store_url, "UNTIL": str(until)}
            yield (await start_process(stack, client, APP, **environment)).url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientSession]:
    """The SDK's client, initialized."""
    seconds: Any = timedelta(seconds=120) if IS_MCP_1 else 120
    async with streamable_http_client(url + "/mcp") as streams:
        async with ClientSession(streams[0], streams[1], seconds) as session:
            await session.initialize()
            yield session


def begun_anew(
    test: Callable[[str], Awaitable[None]],
) -> Callable[[str], Coroutine[Any, Any, None]]:
    """Repeat a test that ends by a fault of the SDK's client, with a new session.

    The client (1.30, 2.3) leaves the generators of a response that broke to the garbage
    collector, which closes them in another task, and anyio then refuses to end their scope.
    """

    @functools.wraps(test)
    async def repeated(url: str) -> None:
        for _ in range(4):
            try:
                return await test(url)
            except Exception as exc:
                if not _is_of_a_scope(exc):
                    raise
        raise AssertionError("the SDK's client failed each time")

    return repeated


def _is_of_a_scope(exc: BaseException) -> bool:
    inner = getattr(exc, "exceptions", None)  # those of an exception group
    if inner is not None:
        return all(map(_is_of_a_scope, inner))
    return isinstance(exc, RuntimeError) and "exit a cancel scope" in str(exc)


async def count(
    session: ClientSession,
    label: str,
    to: int,
    pause: float = 0.01,
    cut: Callable[[int], Any] = lambda number: None,
    **more: Any,
) -> tuple[str, list[str]]:
    """The result of the tool and the progress that it reported."""
    seen: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")
        cut(len(seen))

    arguments = {"to": to, "pause": pause, "label": label, **more}
    result = await session.call_tool("count", arguments, progress_callback=report)
    return result.content[0].text, seen  # type: ignore[union-attr]


def counted(label: str, to: int) -> list[str]:
    return [f"{label}{number}" for number in range(1, to + 1)]


class Event(NamedTuple):
    id: str
    message: Any


class Raw:
    """A client that speaks HTTP itself, to say which events it has seen."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url + "/mcp"
        self.headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": PROTOCOL,
        }

    async def initialize(self) -> Raw:
        client = {"name": "raw", "version": "1"}
        params = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client}
        headers, _ = await self._events(
            self._asking(0, "initialize", params), lambda events: events[-1].message
        )
        self.headers["mcp-session-id"] = headers["mcp-session-id"]
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self._http.post(self._url, json=done, headers=self.headers)
        return self

    async def call(self, tool: str, until: int, number: int = 1, **arguments: Any):
        """Call a tool, and leave after so many events."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": number}}
        asking = self._asking(number, "tools/call", params)
        return (await self._events(asking, lambda events: len(events) >= until))[1]

    async def resume(self, event_id: str, until: int | None = None) -> list[Event]:
        """The events after this one: so many, or up to the result or the end."""
        headers = {**self.headers, "last-event-id": event_id}
        asking = {"method": "GET", "url": self._url, "headers": headers}

        def enough(events: list[Event]) -> bool:
            # The SDK keeps a connection open that has resumed a running call.
            return bool(results(events[-1:])) or (until is not None and len(events) >= until)

        return (await self._events(asking, enough))[1]

    def _asking(self, number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return {"method": "POST", "url": self._url, "headers": self.headers, "json": body}

    async def _events(
        self, asking: dict[str, Any], enough: Callable[[list[Event]], Any]
    ) -> tuple[httpx.Headers, list[Event]]:
        events: list[Event] = []
        event_id = ""
        async with self._http.stream(**asking) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    event_id = value
                elif name == "data" or line == "data:":
                    events.append(Event(event_id, json.loads(value) if value else None))
                    if enough(events):
                        break
        return response.headers, events


@pytest.fixture
async def raw(url: str) -> AsyncIterator[Callable[[], Awaitable[Raw]]]:
    async with httpx.AsyncClient(timeout=120) as http:

        async def new() -> Raw:
            return await Raw(http, url).initialize()

        yield new


def messages(events: list[Event]) -> list[Any]:
    return [event.message for event in events if event.message is not None]


def progress(events: list[Event]) -> list[str]:
    return [each["params"]["message"] for each in messages(events) if "params" in each]


def results(events: list[Event]) -> list[str]:
    return [
        each["result"]["content"][0]["text"]
        for each in messages(events)
        if "content" in each.get("result", {})
    ]


@begun_anew
async def test_a_call_whose_connection_breaks_is_complete(url):
    async with cutting_proxy(url) as (proxy, address), connected(address) as session:
        for label, place in zip("abcd", (1, 7, 13, 19), strict=True):

            def cut(number: int, place: int = place) -> None:
                # Once: the SDK's client resumes a second time from where the first time began.
                if number == place:
                    proxy.cut()

            text, seen = await count(session, label, 20, cut=cut)
            assert seen == counted(label, 20)
            assert text == " ".join(seen)


@begun_anew
async def test_a_call_whose_connection_the_server_closes_again_and_again_is_complete(url):
    async with connected(url) as session:
        text, seen = await count(session, "a", 40, polls=4)
        assert seen == counted("a", 40)
        assert text == " ".join(seen)


async def test_two_sessions_with_the_same_stream_ids_do_not_mix(url):
    async with cutting_proxy(url) as (proxy, address):
        async with connected(address) as one, connected(address) as two:

            def cut(number: int) -> None:
                if number == 8:
                    proxy.cut()

            answers = await asyncio.gather(
                count(one, "a", 20, cut=cut), count(two, "b", 20), count(one, "c", 20)
            )
            for label, (text, seen) in zip("abc", answers, strict=True):
                assert seen == counted(label, 20)
                assert text == " ".join(seen)


async def test_a_client_that_joins_late_gets_every_event_after_its_own_once(raw, until):
    client = await raw()
    first = await client.call("count", until=6, to=30, pause=0.01, label="a")
    assert first[0].message is None  # the priming event
    assert progress(first) == counted("a", 5)
    for seen, event in enumerate(first):
        late = await client.resume(event.id)
        assert progress(late) == counted("a", 30)[seen:]
        assert results(late) == [" ".join(counted("a", 30))]


async def test_a_client_that_was_away_at_the_end_gets_the_result_and_then_the_end(raw, until):
    client = await raw()
    priming, *_ = await client.call("finish", until=1)
    other = asyncio.ensure_future(client.resume(priming.id, until=2))
    until.touch()
    assert results(await other) == ["finished"]
    for _ in range(2):
        late = await client.resume(priming.id)
        assert results(late) == ["finished"]
    assert await client.resume(late[-1].id) == []


async def test_the_id_of_another_session_gives_no_byte_and_neither_does_a_guess(raw):
    owner, stranger = await raw(), await raw()
    assert owner.headers["mcp-session-id"] != stranger.headers["mcp-session-id"]
    events = await owner.call("count", until=3, to=3, pause=0.0, label="secret")
    mine = await stranger.call("count", until=5, to=3, pause=0.0, label="mine")
    theirs, own = events[0].id, mine[0].id
    token, _, offset = own.partition("-")
    guesses = [
        *(event.id for event in events),
        *(f"{theirs.partition('-')[0]}-{number}" for number in (0, 1, 2, 10**15)),
        *(f"{token}-{int(offset) + number}" for number in (-1, 1, 2, 10**12)),
        *(f"{token}-0", f"{token}-", f"{token}--1", token, "_GET_stream", "1", "0", "../x"),
        *(f"{'0' * 24}-{offset}", f"{token}-{'9' * 400}", f"*-{offset}", "%00"),
    ]
    for guess in guesses:
        assert await asyncio.wait_for(stranger.resume(guess), 30) == [], guess
    assert progress(await stranger.resume(own)) == counted("mine", 3)


async def test_a_killed_server_leaves_no_client_waiting_and_keeps_what_was_sent(
    store_url, until
):
    environment = {"STORE": store_url, "UNTIL": str(until)}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=120))
        process = await start_process(stack, http, APP, **environment)
        client = await Raw(http, process.url).initialize()
        first = await client.call("count", until=4, to=1_000, pause=0.01, label="a")
        await process.kill()
        again = await start_process(stack, http, APP, **environment)
        headers = {**client.headers, "last-event-id": first[0].id}
        refused = await http.get(again.url + "/mcp", headers=headers)
        assert refused.status_code == 404
        assert progress(await _stored(store_url, client, first[0].id))[:3] == counted("a", 3)
        new = await Raw(http, again.url).initialize()
        assert await new.resume(first[0].id) == []
        assert results(await new.call("count", until=3, to=1, pause=0.0, label="b")) == ["b1"]


async def _stored(store_url: str, client: Raw, event_id: str) -> list[Event]:
    """What an application that knows the session reads from the store."""
    from streamstores.integrations.mcp import MCPEventStore

    found: list[Event] = []
    async with open_store(store_url) as store:
        events = MCPEventStore(store)

        async def keep(event: Any) -> None:
            text = event.message.model_dump_json(by_alias=True, exclude_none=True)
            found.append(Event(event.event_id, json.loads(text)))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            stream_id = await events.replay_events_after(event_id, keep)
            assert stream_id is not None
            assert stream_id.endswith("1")  # FastMCP puts its own session before it

        session = client.headers["mcp-session-id"].encode()
        scope = {"type": "http", "method": "GET", "headers": [(b"mcp-session-id", session)]}
        await events.middleware(app)(scope, None, None)  # type: ignore[arg-type]
    return found


async def test_the_ids_in_the_store_do_not_tell_the_session():
    async with MemoryStreamStore() as store, httpx.AsyncClient(timeout=60) as http:
        async with serving(make_app(store)) as url:
            client = await Raw(http, url).initialize()
            await client.call("count", until=3, to=1, pause=0.0, label="a")
        streams = [info async for info in store.list("mcp/")]
        assert [info.state for info in streams] == [State.DONE] * 2
        assert not [each for each in streams if client.headers["mcp-session-id"] in each.id]
