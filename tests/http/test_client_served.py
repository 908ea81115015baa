"""The Python client against the real handler, through a proxy that loses connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamstores.client import Status, Stream, StreamEvent
from streamstores.http import Event, StreamRequest
from streamstores.models import text_source
from tests.http.conftest import Serve
from tests.http.cutting_proxy import cutting_proxy
from tests.http.serving import Script

AWKWARD = "one\u2028two\r\nthree\rfour\n\nfive\x00six 🎉 日本\x85 "


async def test_awkward_text_and_events_arrive_exactly(serve: Serve) -> None:
    async def model(request: StreamRequest) -> AsyncIterator[str | Event]:
        for character in AWKWARD:
            yield character
        yield Event("usage", '{"tokens": 7}')
        yield request.prompt

    chat = await serve(model)
    events: list[StreamEvent] = []
    async with Stream(f"{chat.url}/stream", on_event=events.append) as stream:
        await stream.send("é\u2029")
        pieces = [piece async for piece in stream]
    assert pieces == [*AWKWARD, "é\u2029"]
    assert [(each.name, each.data) for each in events] == [("usage", '{"tokens": 7}')]
    assert stream.status is Status.DONE


@pytest.mark.parametrize("answer_bytes", [520, 777, 2048])
async def test_text_is_exact_however_often_the_connection_is_cut(
    serve: Serve, answer_bytes: int
) -> None:
    text = AWKWARD * 40
    chat = await serve(text_source(text, delay=0))
    async with cutting_proxy(chat.url) as (proxy, url):
        proxy.answer_bytes = answer_bytes
        async with Stream(f"{url}/stream", backoff=0.001) as stream:
            await stream.send("hello")
            pieces = [piece async for piece in stream]
        assert "".join(pieces) == stream.text == text
        assert proxy.connections > 3


async def test_an_answer_lost_before_it_began_is_not_generated_twice(serve: Serve) -> None:
    script = Script().say("once")
    chat = await serve(script.model)
    async with cutting_proxy(chat.url) as (proxy, url):
        proxy.answer_bytes = 0  # the request arrives, its answer does not
        async with Stream(f"{url}/stream", backoff=0.001) as stream:
            statuses: list[Status] = []
            stream._on_change = lambda each: statuses.append(each.status)
            await stream.send("hello")
            while Status.RECONNECTING not in statuses:
                await stream._next_change()
            proxy.answer_bytes = None
            script.say(None)
            assert [piece async for piece in stream] == ["once"]
    assert len(script.requests) == 1


async def test_a_stop_of_one_client_ends_the_other_and_either_continues(serve: Serve) -> None:
    chat = await serve(text_source("a b c d", delay=0.02))
    endpoint = f"{chat.url}/stream"
    async with Stream(endpoint) as first:
        stream_id = await first.send("hello")
        assert await anext(first) == "a"
        async with Stream(endpoint, stream_id=stream_id) as second:
            await second.stop()
            assert await first.wait() is await second.wait() is Status.STOPPED
            assert first.text == second.text
            await second.resume()
            assert await second.wait() is Status.DONE
            assert second.text == "a b c d"
        assert first.status is Status.STOPPED
        await first.resume()
        assert await first.wait() is Status.DONE
        assert first.text == "a b c d"


async def test_a_cut_after_a_stop_elsewhere_continues_nothing(serve: Serve) -> None:
    script = Script().say("one")
    chat = await serve(script.model)
    async with cutting_proxy(chat.url) as (proxy, url):
        async with Stream(f"{url}/stream", backoff=0.3) as stream:
            stream_id = await stream.send("hello")
            assert await anext(stream) == "one"
            proxy.cut()
            async with Stream(f"{chat.url}/stream", stream_id=stream_id) as other:
                await other.stop()
            assert await stream.wait() is Status.STOPPED
    assert len(script.requests) == 1


async def test_a_failed_model_is_an_error_and_retry_asks_again(serve: Serve) -> None:
    script = Script().say("half", LookupError("broken"), "whole", None)
    chat = await serve(script.model)
    async with Stream(f"{chat.url}/stream") as stream:
        first = await stream.send("hello")
        assert await stream.wait() is Status.ERROR
        assert stream.error is not None
        assert stream.error.code == "stream_error"
        assert await stream.retry() != first
        assert await stream.wait() is Status.DONE
        assert stream.text == "whole"
    assert [request.prompt for request in script.requests] == ["hello", "hello"]


async def test_an_expired_stream_is_an_error_not_a_hang(serve: Serve) -> None:
    chat = await serve(text_source("a", delay=0))
    async with Stream(f"{chat.url}/stream", stream_id="never-was") as stream:
        assert await stream.wait() is Status.ERROR
        assert stream.error is not None
        assert (stream.error.code, stream.error.status) == ("not_found", 404)
        assert not stream.can_resume


async def test_many_streams_of_one_process_run_side_by_side(serve: Serve) -> None:
    chat = await serve(text_source(AWKWARD, delay=0.001))

    async def answer() -> str:
        async with Stream(f"{chat.url}/stream") as stream:
            await stream.send("hello")
            await stream.wait()
            return stream.text

    assert await asyncio.gather(*[answer() for _ in range(20)]) == [AWKWARD] * 20
