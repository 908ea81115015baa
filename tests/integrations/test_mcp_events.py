"""What the event store for MCP does by itself, without a server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from mcp import types

from streamstores import InvalidRequest, MemoryStreamStore, OutcomeUnknown, StoreUnavailable
from streamstores.integrations.mcp import MCPEventStore
from tests.wrapping import Wrapping


class Sessions:
    """Requests to an application that hold an event store of MCP."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.events = MCPEventStore(store, **options)
        self.protocol = "2025-11-25"

    async def request(
        self, method: str, session: str, work: Callable[[Callable[[str], Any]], Awaitable[Any]]
    ) -> Any:
        """The result of `work(send)` in a request of that session; `send` sends a body."""
        results: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def send_body(body: str) -> None:
                await send({"type": "http.response.body", "body": body.encode()})

            results.append(await work(send_body))

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            pass

        headers = [(b"mcp-session-id", session.encode())]
        headers += [(b"mcp-protocol-version", self.protocol.encode())]
        scope = {"type": "http", "method": method, "headers": headers}
        await self.events.middleware(app)(scope, receive, send)
        return results[0]

    async def store(self, session: str, *messages: Any, method: str = "POST") -> list[str]:
        async def work(send: Any) -> list[str]:
            return [await self.events.store_event("1", message) for message in messages]

        return await self.request(method, session, work)

    async def replay(self, session: str, event_id: str) -> tuple[str | None, list[Any]]:
        sent: list[Any] = []

        async def work(send: Any) -> str | None:
            async def keep(event: Any) -> None:
                sent.append((event.event_id, plain(event.message)))

            return await self.events.replay_events_after(event_id, keep)

        return await self.request("GET", session, work), sent


def parsed(message: dict[str, Any]) -> Any:
    data = {"jsonrpc": "2.0", **message}
    adapter: Any = getattr(types, "jsonrpc_message_adapter", None)
    message_class: Any = types.JSONRPCMessage
    return adapter.validate_python(data) if adapter else message_class.model_validate(data)


def plain(message: Any) -> dict[str, Any]:
    return message.model_dump(by_alias=True, exclude_unset=True)


async def ignore(event: Any) -> None:
    pass


def note(text: str) -> Any:
    return parsed({"method": "note", "params": {"text": text, "none": None}})


RESULT = parsed({"id": 1, "result": {"ok": True, "none": None}})


@pytest.fixture
async def sessions():
    async with MemoryStreamStore() as store:
        yield Sessions(store)


async def test_a_replay_gives_back_the_messages_and_never_a_priming_event(sessions):
    sent = [None, note("a"), None, note("b\nü"), RESULT]
    ids = await sessions.store("s", *sent, method="GET")
    stream_id, events = await sessions.replay("s", ids[0])
    assert stream_id == "1"
    assert events == [(ids[at], plain(sent[at])) for at in (1, 3, 4)]
    assert await sessions.replay("s", ids[4]) == (None, [])
    assert await sessions.replay("other", ids[0]) == (None, [])


async def test_no_priming_event_is_stored_after_the_replay_of_a_stream_that_has_ended(sessions):
    async def run(send: Any) -> None:
        first = await sessions.events.store_event("1", None)
        await sessions.events.store_event("1", RESULT)

        async def resume(send: Any) -> str:
            assert await sessions.events.replay_events_after(first, ignore) == "1"
            return await sessions.events.store_event("1", None)

        priming = await sessions.request("GET", "s", resume)
        assert await sessions.replay("s", priming) == (None, [])

    await sessions.request("POST", "s", run)


async def test_a_stream_that_goes_on_is_named_after_its_replay(sessions):
    ids = await sessions.store("s", None, note("a"))
    assert await sessions.replay("s", ids[0]) == ("1", [(ids[1], plain(note("a")))])
    assert await sessions.replay("s", ids[1]) == ("1", [])


async def test_a_message_longer_than_an_append_is_stored_whole():
    store = Wrapping()
    store.limits = replace(store.limits, record_bytes=10, append_bytes=35)
    sizes: list[int] = []
    async with store:
        sessions = Sessions(store)

        async def append(stream_id: str, *chunks: bytes, **options: Any) -> Any:
            sizes.append(len(b"".join(chunks)))
            return await store.inner.append(stream_id, *chunks, **options)

        store.append = append  # type: ignore[method-assign]
        long = note("x" * 500)
        ids = await sessions.store("s", None, long, note("b"))
        assert max(sizes) == 30
        _, events = await sessions.replay("s", ids[0])
        assert events == [(ids[1], plain(long)), (ids[2], plain(note("b")))]


@pytest.mark.parametrize("offset", ["0", "-1", "1", "7", "999", "9" * 15, "9" * 16, "9" * 400])
async def test_an_offset_inside_or_beyond_the_events_gives_nothing(sessions, offset):
    (event_id,) = await sessions.store("s", note("a"))
    guess = event_id.partition("-")[0] + "-" + offset
    assert await sessions.replay("s", guess) == (None, [])


async def test_an_application_without_the_middleware_is_refused(sessions):
    other = MCPEventStore(MemoryStreamStore())
    with pytest.raises(RuntimeError, match="middleware"):
        await sessions.events.store_event("1", None)
    with pytest.raises(RuntimeError, match="middleware"):
        await sessions.request("POST", "s", lambda send: other.store_event("1", None))


async def test_a_stream_that_has_expired_is_unknown():
    async with MemoryStreamStore() as store:
        sessions = Sessions(store)

        async def work(send: Any) -> None:
            first = await sessions.events.store_event("1", None)
            (info,) = [info async for info in store.list()]
            await store.delete(info.id)
            assert await sessions.replay("s", first) == (None, [])
            # The request runs on, and its later events can be resumed from.
            second = await sessions.events.store_event("1", note("a"))
            third = await sessions.events.store_event("1", note("b"))
            assert await sessions.replay("s", first) == (None, [])
            assert await sessions.replay("s", second) == ("1", [(third, plain(note("b")))])

        await sessions.request("POST", "s", work)


class Failing(Wrapping):
    """A store that can be switched off, and whose mutations may then have been applied."""

    problem: type[Exception] | None = None
    applies = False

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return await self._try(super().create, stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        return await self._try(super().append, stream_id, *chunks, **options)

    async def _try(self, mutate: Any, *arguments: Any, **options: Any) -> Any:
        if self.problem is None:
            return await mutate(*arguments, **options)
        problem = self.problem("away")
        if self.applies:
            await mutate(*arguments, **options)
            self.problem = None
        raise problem


async def test_a_lost_acknowledgement_neither_loses_nor_doubles_an_event():
    async with Failing() as store:
        sessions = Sessions(store)
        store.applies = True
        messages = [None, note("a"), note("b"), RESULT]

        async def work(send: Any) -> list[str]:
            ids = []
            for message in messages:
                store.problem = OutcomeUnknown
                ids.append(await sessions.events.store_event("1", message))
            return ids

        ids = await sessions.request("POST", "s", work)
        _, events = await sessions.replay("s", ids[0])
        assert events == [
            (event_id, plain(message))
            for event_id, message in zip(ids[1:], messages[1:], strict=True)
        ]


async def test_a_store_that_is_away_refuses_new_requests_and_ends_no_session(monkeypatch):
    monkeypatch.setattr("streamstores.integrations.mcp._RETRY_SECONDS", 0.01)
    async with Failing() as store:
        sessions = Sessions(store)

        async def work(send: Any) -> None:
            first = await sessions.events.store_event("1", None)
            store.problem = StoreUnavailable
            lost = await sessions.events.store_event("1", note("lost"))
            store.problem = None
            last = await sessions.events.store_event("1", RESULT)
            # Nothing, because a client would not see that an event is missing.
            for event_id in (first, lost, last):
                assert await sessions.replay("s", event_id) == (None, [])
            store.problem = StoreUnavailable
            with pytest.raises(StoreUnavailable):
                await sessions.events.store_event("2", None)

        await sessions.request("POST", "s", work)


async def test_no_event_is_stored_between_a_replay_and_the_forwarding_of_new_events(sessions):
    """The SDK forgets an event that is stored in between, so a client would not get it."""
    events = sessions.events

    async def run(send: Any) -> None:
        first = await events.store_event("1", None)
        await sessions.request("GET", "s", lambda send: resume(first, send))

    async def resume(first: str, send: Any) -> None:
        assert await events.replay_events_after(first, ignore) == "1"
        await asyncio.sleep(0)  # FastMCP sends the replayed events only now
        primed = events.store_event("1", None)
        tool = asyncio.ensure_future(sessions.store("s", RESULT, method="DELETE"))
        priming = await primed
        for _ in range(20):
            await asyncio.sleep(0)
        assert not tool.done()
        await send(f"id: {priming}")
        await asyncio.wait_for(tool, 60)

    await sessions.request("POST", "s", run)


async def test_a_replay_without_a_priming_event_holds_no_event_back(sessions):
    sessions.protocol = "2025-06-18"

    async def run(send: Any) -> None:
        first = await sessions.events.store_event("1", note("a"))

        async def resume(send: Any) -> None:
            assert await sessions.events.replay_events_after(first, ignore) == "1"
            tool = asyncio.ensure_future(sessions.store("s", RESULT, method="DELETE"))
            await asyncio.wait_for(tool, 4)  # before a hold would end by itself

        await sessions.request("GET", "s", resume)

    await sessions.request("POST", "s", run)


async def test_nothing_is_kept_of_a_session_that_has_ended():
    async with MemoryStreamStore() as store:
        await store.create("a", ttl=60)  # starts the tasks of the store, in this context
        sessions = Sessions(store)
        await sessions.store("s", None, note("a"))
        gc.collect()
        assert len(sessions.events._sessions) == 0


async def test_settings_out_of_range_are_refused():
    store = MemoryStreamStore()
    with pytest.raises(InvalidRequest):
        MCPEventStore(store, ttl=-1)
    with pytest.raises(InvalidRequest):
        MCPEventStore(store, prefix="x" * 250)
