"""What the Python client asks for: prompts, reconnects, stops."""

from __future__ import annotations

import asyncio

import pytest

from streamstores._client.connection import OpenAnswer
from streamstores.client import Status, Stream, StreamError
from tests.clients.waiting import until
from tests.http.scripted_server import DONE, GIVE_UP_SECONDS, STOPPED, ScriptedServer, event


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


async def test_a_reconnect_requests_the_missing_part(
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


async def test_resume_continues_after_the_last_byte(
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


async def test_every_chunk_renews_the_time_that_a_connection_may_be_silent(
    stream: Stream, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[float] = []
    monkeypatch.setattr(OpenAnswer, "expect_within", lambda _, seconds: granted.append(seconds))
    await stream.send("hello")
    exchange = await server.next()
    await exchange.open(event("", "one", 3), ping=0.5)
    await until(stream, lambda: stream.offset == 3)
    before = len(granted)
    await exchange.send(event("", "two", 6))
    await until(stream, lambda: stream.offset == 6)
    assert len(granted) > before
    assert set(granted) == {1.5}
    await exchange.send(DONE)
    assert await stream.wait() is Status.DONE


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


async def test_a_stop_while_disconnected_reads_the_stored_text(
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


async def test_a_refused_stop_raises_and_changes_nothing(
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


async def test_a_stop_of_an_answer_that_is_not_kept_closes_the_connection(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    exchange = await server.next()
    await exchange.open_unkept(event("", "one"))
    await until(stream, lambda: stream.text == "one")
    await stream.stop()
    await exchange.left()
    assert (stream.status, stream.can_resume) == (Status.STOPPED, False)
    assert [request.label for request in server.requests] == ["POST /stream"]


async def test_a_stopped_stream_is_watched_until_it_is_continued_elsewhere(
    stream: Stream, server: ScriptedServer
) -> None:
    stream_id = await stream.send("hello")
    await (await server.next()).open(event("", "one", 3), STOPPED)
    assert await stream.wait() is Status.STOPPED
    watching = asyncio.create_task(stream.until_continued(interval=0.001))
    look = await server.next()
    assert (look.request.label, look.request.query) == ("GET /stream/status", {"id": stream_id})
    await look.answer(200, {"state": "stopped", "tail": 3})
    (await server.next()).cut()
    await (await server.next()).answer(200, {"state": "streaming", "tail": 3})
    assert await watching is True
    second = await server.next()
    assert second.request.query == {"id": stream_id, "after": "3", "mode": "follow"}
    await second.open(event("", "two", 6), DONE)
    assert await stream.wait() is Status.DONE
    assert stream.text == "onetwo"


async def test_text_of_a_continuation_that_was_stopped_again_is_read(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).open(event("", "one", 3), STOPPED)
    await stream.wait()
    watching = asyncio.create_task(stream.until_continued(interval=0.001))
    await (await server.next()).answer(200, {"state": "stopped", "tail": 6})
    assert await watching is True
    await (await server.next()).open(event("", "two", 6), STOPPED)
    assert await stream.wait() is Status.STOPPED
    assert stream.text == "onetwo"


async def test_watching_ends_when_the_stream_is_gone_or_not_at_rest(
    stream: Stream, server: ScriptedServer
) -> None:
    assert await stream.until_continued() is False
    await stream.send("hello")
    await (await server.next()).open(STOPPED)
    await stream.wait()
    watching = asyncio.create_task(stream.until_continued(interval=0.001))
    await (await server.next()).refuse(404, "not_found")
    assert await watching is False
    assert stream.status is Status.STOPPED


async def test_an_id_that_the_server_chose_is_taken_over(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    first = await server.next()
    await first.begin(X_Stream_Id="another", X_Stream_Ping=15)
    await first.send(event("stream-id", "another"), event("", "one", 3))
    await until(stream, lambda: stream.offset == 3)
    assert stream.stream_id == "another"
    first.cut()
    second = await server.next()
    assert second.request.query["id"] == "another"
    await second.open()
    await until(stream, lambda: stream.status is Status.STREAMING)
    stopping = asyncio.create_task(stream.stop())
    command = await server.next()
    assert command.request.body == {"id": "another"}
    await command.answer(200, {"state": "stopped"})
    await second.send(STOPPED)
    await asyncio.wait_for(stopping, GIVE_UP_SECONDS)
    assert stream.status is Status.STOPPED
