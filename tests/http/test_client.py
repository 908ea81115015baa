"""The Python client: the shared table of transitions, and what it says of each byte."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores._client.events import EventParser
from streamstores.client import Status, Stream, StreamError, StreamEvent
from tests.http.scripted_server import DONE, PING, STOPPED, Exchange, ScriptedServer, event

TABLE = json.loads((Path(__file__).parents[1] / "data" / "transitions.json").read_text())


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def stream(server: ScriptedServer) -> AsyncIterator[Stream]:
    async with Stream(server.endpoint, backoff=0.001) as stream:
        yield stream


async def until(stream: Stream, condition: Callable[[], bool]) -> None:
    """Wait for a change that makes the condition true."""

    async def watch() -> None:
        while not condition():
            await stream._next_change()

    await asyncio.wait_for(watch(), 10)


# The table


class Script:
    """Causes the table's events, one after another."""

    def __init__(self, stream: Stream, server: ScriptedServer) -> None:
        self.stream = stream
        self.server = server
        self.current: Exchange | None = None  # what the client reads now
        self.offset = 0

    async def cause(self, name: str) -> None:
        await getattr(self, name)()
        await asyncio.wait_for(self._quiet(), 10)

    async def _quiet(self) -> None:
        """Wait until the client waits for us: it reads, it has asked, or it is at an end."""
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

    def _begin_anew(self) -> None:
        self.current, self.offset = None, 0
        self.server.forget()

    async def send(self) -> None:
        self._begin_anew()
        await self.stream.send("hello")

    async def follow(self) -> None:
        self._begin_anew()
        await self.stream.attach("persisted")

    async def resume(self) -> None:
        await self.stream.resume()

    async def retry(self) -> None:
        self._begin_anew()
        await self.stream.retry()

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
        await asyncio.wait_for(stopping, 10)

    async def stop_lost(self) -> None:
        stopping = asyncio.create_task(self.stream.stop())
        for _ in range(1 + TABLE["max_reconnects"]):
            (await self.server.next()).cut()
        with pytest.raises(StreamError) as raised:
            await asyncio.wait_for(stopping, 10)
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
    script = Script(stream, server)
    for name in TABLE["reach"][row["from"]]:
        await script.cause(name)
    assert stream.status == row["from"]
    for name in row["on"]:
        await script.cause(name)
    expected = TABLE["states"][row["to"]]
    assert stream.status == row["to"]
    assert stream.loading is expected["loading"]
    assert stream.can_resume is expected["canResume"]
    if "request" in row:
        assert server.requests[-1].label == row["request"]


def test_the_table_has_a_row_for_every_state() -> None:
    reached = {row["to"] for row in TABLE["transitions"]}
    assert reached == set(TABLE["states"]) == {str(status) for status in Status}


# Requests


async def test_a_post_whose_answer_was_lost_is_repeated_with_its_id(
    stream: Stream, server: ScriptedServer
) -> None:
    stream_id = await stream.send("why?", system="be brief", model="small", session_id="s")
    first = await server.next()
    first.cut()
    second = await server.next()
    expected = {
        "prompt": "why?",
        "system": "be brief",
        "model": "small",
        "sessionId": "s",
        "id": stream_id,
    }
    assert first.request.body == second.request.body == expected
    await second.open(event("", "because", 7), DONE)
    assert [piece async for piece in stream] == ["because"]


async def test_requests_ask_for_exact_text_and_carry_the_headers(
    server: ScriptedServer,
) -> None:
    async with Stream(server.endpoint, headers={"X-User": "ann"}) as stream:
        await stream.send("hello")
        headers = (await server.next()).request.headers
    assert headers["accept"] == "text/event-stream; text=json"
    assert headers["x-user"] == "ann"


async def test_every_send_has_an_id_of_its_own(stream: Stream, server: ScriptedServer) -> None:
    assert await stream.send("one") != await stream.send("one")


async def test_of_two_sends_at_once_only_the_last_one_is_read(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("before")
    await (await server.next()).open()
    await asyncio.gather(stream.send("one"), stream.send("two"))
    exchange = await server.next()
    while exchange.request.stream_id != stream.stream_id:
        await exchange.open(event("", "wrong", 5), DONE)
        exchange = await server.next()
    await exchange.open(event("", "right", 5), DONE)
    assert [piece async for piece in stream] == ["right"]


async def test_a_reconnect_asks_for_what_is_missing(
    stream: Stream, server: ScriptedServer
) -> None:
    stream_id = await stream.send("hello")
    first = await server.next()
    await first.open(event("", "あ", 3))
    await until(stream, lambda: stream.offset == 3)
    first.cut()
    second = await server.next()
    assert second.request.query == {"id": stream_id, "after": "3", "mode": "follow"}
    await second.open(event("", "い", 6), DONE)
    assert await stream.wait() is Status.DONE
    assert stream.text == "あい"


async def test_resume_continues_behind_what_arrived(
    stream: Stream, server: ScriptedServer
) -> None:
    stream_id = await stream.send("hello")
    await (await server.next()).open(event("", "one ", 4), STOPPED)
    assert [piece async for piece in stream] == ["one "]
    await stream.resume()
    second = await server.next()
    assert second.request.body == {"id": stream_id, "after": 4}
    await second.open(event("", "two", 7), DONE)
    assert [piece async for piece in stream] == ["two"]
    assert stream.text == "one two"


async def test_a_persisted_stream_is_followed_when_the_object_is_entered(
    server: ScriptedServer,
) -> None:
    async with Stream(server.endpoint, stream_id="kept", offset=4) as stream:
        exchange = await server.next()
        assert exchange.request.query == {"id": "kept", "after": "4", "mode": "follow"}
        await exchange.open(event("", "rest", 8), DONE)
        assert [piece async for piece in stream] == ["rest"]


async def test_a_silent_connection_is_given_up_after_three_pings(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).open(event("", "one", 3), ping=0.02)
    second = await server.next()
    assert second.request.query["after"] == "3"
    await second.open(DONE)
    assert await stream.wait() is Status.DONE


async def test_pings_keep_a_silent_connection(stream: Stream, server: ScriptedServer) -> None:
    await stream.send("hello")
    exchange = await server.next()
    await exchange.open(ping=0.3)
    for _ in range(5):
        await asyncio.sleep(0.2)
        await exchange.send(PING)
    await exchange.send(DONE)
    assert await stream.wait() is Status.DONE
    assert len(server.requests) == 1


class PatientStream(Stream):
    """Notes how long the server asked it to wait."""

    waited: list[float]

    async def _pause(self, failures: int, retry_after: float) -> None:
        self.waited.append(retry_after)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("86400", 60.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", 0.0)],
)
async def test_retry_after_is_honoured_within_reason(
    server: ScriptedServer, value: str, seconds: float
) -> None:
    async with PatientStream(server.endpoint) as stream:
        stream.waited = []
        await stream.send("hello")
        await (await server.next()).refuse(429, "too_many_streams", Retry_After=value)
        await (await server.next()).open(DONE)
        assert await stream.wait() is Status.DONE
        assert stream.waited == [seconds]


async def test_a_fault_of_a_proxy_is_tried_again(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).answer(502, "<html>Bad Gateway</html>")
    await (await server.next()).open(DONE)
    assert await stream.wait() is Status.DONE


# Stopping


async def test_a_stop_waits_until_the_server_knows_the_stream(
    stream: Stream, server: ScriptedServer
) -> None:
    stream_id = await stream.send("hello")
    stopping = asyncio.create_task(stream.stop())
    sent = await server.next()
    assert len(server.requests) == 1
    await sent.open(event("", "one", 3))
    command = await server.next()
    assert command.request.label == "POST /stream/stop"
    assert command.request.body == {"id": stream_id}
    await command.answer(200, {"state": "stopped"})
    await sent.send(event("", "two", 6), STOPPED)
    await stopping
    assert (stream.status, stream.text) == (Status.STOPPED, "onetwo")


async def test_a_stop_of_a_lost_stream_brings_what_there_is(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).open()
    await until(stream, lambda: stream._is_known)
    for _ in range(3):
        server.cut_all()
        await server.next()
    server.cut_all()
    assert await stream.wait() is Status.DISCONNECTED
    stopping = asyncio.create_task(stream.stop())
    await (await server.next()).answer(200, {"state": "stopped"})
    await (await server.next()).open(event("", "kept", 4), STOPPED)
    await stopping
    assert (stream.status, stream.text) == (Status.STOPPED, "kept")


async def test_a_refused_stop_is_told_and_changes_nothing(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    sent = await server.next()
    await sent.open()
    stopping = asyncio.create_task(stream.stop())
    await (await server.next()).refuse(403, "forbidden")
    with pytest.raises(StreamError) as raised:
        await stopping
    assert (raised.value.code, raised.value.status) == ("forbidden", 403)
    assert stream.status is Status.STREAMING


async def test_a_stop_does_not_reach_the_stream_that_was_sent_meanwhile(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("first")
    stopping = asyncio.create_task(stream.stop())
    await server.next()
    await stream.send("second")
    second = await server.next()
    await second.open(DONE)
    await stopping
    assert await stream.wait() is Status.DONE
    assert [request.label for request in server.requests] == ["POST /stream"] * 2


# What a reader sees


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


async def test_what_is_no_chat_handler_is_told_at_once(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).answer(200, "<html>Welcome</html>")
    with pytest.raises(StreamError) as raised:
        await anext(stream)
    assert raised.value.code == "bad_answer"


async def test_a_url_that_cannot_work_is_told_at_once() -> None:
    async with Stream("gopher://127.0.0.1/stream", backoff=60) as stream:
        await stream.send("hello")
        with pytest.raises(StreamError, match="gopher"):
            await anext(stream)
        assert stream.status is Status.ERROR


async def test_an_iteration_that_was_left_goes_on_behind_its_last_piece(
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


async def test_what_comes_twice_is_taken_once(stream: Stream, server: ScriptedServer) -> None:
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


# The parser

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
names = st.sampled_from(["", "usage", "text", "done"])
events = st.lists(st.tuples(names, st.lists(texts, min_size=1), st.none() | st.integers(0)))


@given(events, st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_events_survive_every_line_end_and_every_slicing(
    written: list[tuple[str, list[str], int | None]], line_end: str, data: st.DataObject
) -> None:
    body = b"".join(
        event(name, "\n".join(lines), offset).replace(b"\n", line_end.encode())
        for name, lines, offset in written
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    parser = EventParser()
    parsed = [
        each
        for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)
        for each in parser.feed(body[start:stop])
    ]
    assert parsed == [
        (name, "\n".join(lines), None if offset is None else str(offset))
        for name, lines, offset in written
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xef\xbb\xbfdata: a\n\n", [("", "a", None)]),
        (b": a comment\n\nevent: x\n\ndata: a\n\n", [("", "a", None)]),
        (b"data\ndata:b\nfield: x\n\n", [("", "\nb", None)]),
        (b"id: 1\0\ndata:  a\n\n", [("", " a", None)]),
        (b"data: \xff\n\ndata: unfinished\n", [("", "\ufffd", None)]),
    ],
    ids=["byte order mark", "no data", "no colon", "NUL in an id", "invalid and unfinished"],
)
def test_the_parser_keeps_the_standards_small_print(
    body: bytes, expected: list[tuple[str, str, str | None]]
) -> None:
    assert EventParser().feed(body) == expected


def test_importing_streamstores_does_not_load_httpx() -> None:
    code = "import streamstores, sys; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
