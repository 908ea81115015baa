"""What a user of the Python client sees of a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from streamstores.client import Status, Stream, StreamError, StreamEvent
from tests.http.scripted_server import DONE, PING, ScriptedServer, event


async def test_a_failed_stream_gives_its_text_and_then_raises(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).open(event("", "one", 3), event("error", "it broke"), DONE)
    assert await anext(stream) == "one"
    with pytest.raises(StreamError, match="it broke") as raised:
        await anext(stream)
    assert raised.value is stream.error
    assert raised.value.code == "stream_error"


async def test_a_refusal_is_raised_with_the_servers_code(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).refuse(400, "unknown_model")
    with pytest.raises(StreamError, match="it is unknown_model") as raised:
        await anext(stream)
    assert (raised.value.code, raised.value.status) == ("unknown_model", 400)
    assert len(server.requests) == 1


async def test_an_iteration_that_was_left_goes_on_after_its_last_piece(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).open(event("", "a", 1), event("", "b", 2), DONE)
    async for piece in stream:
        assert piece == "a"
        break
    assert [piece async for piece in stream] == ["b"]
    assert stream.text == "ab"


async def test_named_events_come_by_callback_and_by_iteration(server: ScriptedServer) -> None:
    seen: list[StreamEvent] = []
    async with Stream(server.endpoint, on_event=seen.append) as stream:
        await stream.send("hello")
        usage = event("usage", '{"tokens":\n7}', 20)
        await (await server.next()).open(event("", "a", 1), usage, PING, DONE)
        assert [each async for each in stream.events()] == seen
    assert seen == [StreamEvent("usage", '{"tokens":\n7}', 20)]


async def test_an_event_that_arrives_twice_is_taken_once(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    one = event("", "one", 3)
    await (await server.next()).open(one, one, event("", "two", 6), one, DONE)
    assert [piece async for piece in stream] == ["one", "two"]


async def test_a_callback_that_fails_does_not_end_the_stream(server: ScriptedServer) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))

    def fail(stream: Stream) -> None:
        raise LookupError(stream.status)

    async with Stream(server.endpoint, on_change=fail) as stream:
        await stream.send("hello")
        await (await server.next()).open(event("", "one", 3), DONE)
        assert await stream.wait() is Status.DONE
    assert {type(fault["exception"]) for fault in faults} == {LookupError}


async def test_on_change_sees_every_status(server: ScriptedServer) -> None:
    statuses: list[Status] = []
    stream = Stream(
        server.endpoint, backoff=0.001, on_change=lambda each: statuses.append(each.status)
    )
    async with stream:
        await stream.send("hello")
        (await server.next()).cut()
        await (await server.next()).open(DONE)
        await stream.wait()
    assert statuses == ["streaming", "reconnecting", "streaming", "done"]


async def test_a_client_that_was_given_stays_open(server: ScriptedServer) -> None:
    async with httpx.AsyncClient() as client:
        async with Stream(server.endpoint, client=client):
            pass
        assert not client.is_closed


async def test_a_closed_client_ends_its_readers_and_begins_nothing(
    server: ScriptedServer,
) -> None:
    stream = Stream(server.endpoint)
    await stream.send("hello")
    await (await server.next()).open()
    reading = asyncio.create_task(anext(stream, "nothing"))
    await stream.aclose()
    assert await reading == "nothing"
    assert stream.status is Status.IDLE
    with pytest.raises(RuntimeError, match="closed"):
        await stream.send("again")


async def test_waiting_for_a_persisted_stream_follows_it(server: ScriptedServer) -> None:
    stream = Stream(server.endpoint, stream_id="kept")
    waiting = asyncio.create_task(stream.wait())
    await (await server.next()).open(event("", "all", 3), DONE)
    assert await waiting is Status.DONE
    assert stream.text == "all"
    await stream.aclose()


AWKWARD = "a\u2028b\u2029c\x85d\x0be\x0cf\x00g\x1ch\x7f \u200b\ufeff🎉\n\n x\r\ny\rz"


async def test_awkward_text_arrives_exactly(stream: Stream, server: ScriptedServer) -> None:
    plain = AWKWARD.replace("\r", "")
    end = len(plain.encode())
    await stream.send("hello")
    exact = event("text", json.dumps(AWKWARD), end + len(AWKWARD.encode()))
    await (await server.next()).open(event("", plain, end), exact, DONE)
    assert [piece async for piece in stream] == [plain, AWKWARD]
