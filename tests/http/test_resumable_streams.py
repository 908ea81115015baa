"""An application's own FastAPI endpoints, made resumable by `ResumableStreams`."""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request

from streamstores import MemoryStreamStore, State, StreamNotFound
from streamstores.http import ResumableStreams
from streamstores.http.resumable.pings import with_pings
from tests.http.serving import serving


class Words:
    """A source of events that the test chooses one by one."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = asyncio.Event()
        self._words: asyncio.Queue = asyncio.Queue()

    def say(self, *words):
        for word in words:
            self._words.put_nowait(word)
        return self

    async def __call__(self):
        self.opened += 1
        try:
            while (word := await self._words.get()) is not None:
                if isinstance(word, Exception):
                    raise word
                yield word
        finally:
            self.closed.set()


class Served:
    def __init__(self, streams, words, url, client):
        self.streams, self.words, self.url, self.client = streams, words, url, client

    async def get(self, path, **options):
        return await self.client.get(self.url + path, **options)

    async def post(self, path, **options):
        return await self.client.post(self.url + path, **options)

    def stream(self, method, path, **options):
        return self.client.stream(method, self.url + path, **options)


def application(streams, words, **options):
    app = FastAPI(lifespan=streams.lifespan)

    @app.post("/chat/{stream_id}")
    async def chat(stream_id: str):
        return await streams.response(stream_id, words(), **options)

    @app.get("/chat/{stream_id}")
    async def resume(
        stream_id: str,
        request: Request,
        live: bool = False,
        missing: int = 404,
        ending: bool = False,
    ):
        return await streams.replay(
            stream_id, request, only_live=live, missing_status=missing, repeat_ending=ending
        )

    return app


@pytest.fixture
async def serve():
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))

        async def start(store=None, *, own=None, **options):
            store = store or MemoryStreamStore()
            streams = ResumableStreams(store, **{"heartbeat": 0.1, **(own or {})})
            words = Words()
            app = application(streams, words, **options)
            url = await stack.enter_async_context(serving(app))
            return Served(streams, words, url, client)

        yield start


@asynccontextmanager
async def cut(response_context, count):
    """A response that its client leaves after `count` events; gives what came until then."""
    async with response_context as response:
        text = ""
        async for part in response.aiter_text():
            text += part
            if text.count("\n\n") >= count:
                break
        yield text, response


async def test_a_response_is_the_applications_own_with_ids_to_resume_from(serve):
    served = await serve(headers={"X-Own": "1", "Cache-Control": "no-store"})
    served.words.say("data: a\n\n", {"b": 1}, None)
    response = await served.post("/chat/s")
    assert response.text == 'id: 9\ndata: a\n\nid: 25\ndata: {"b": 1}\n\n'
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-own"] == "1"
    assert response.headers["x-stream-id"] == "s"


async def test_a_cut_client_goes_on_from_its_last_event(serve):
    served = await serve()
    served.words.say("data: 1\n\n", "data: 2\n\n")
    async with cut(served.stream("POST", "/chat/s"), 2) as (text, _):
        assert text == "id: 9\ndata: 1\n\nid: 18\ndata: 2\n\n"
    served.words.say("data: 3\n\n", None)
    for options in ({"headers": {"Last-Event-ID": "18"}}, {"params": {"offset": "18"}}):
        rest = await served.get("/chat/s", **options)
        assert rest.text == "id: 27\ndata: 3\n\n"
    assert served.words.opened == 1


async def test_the_header_wins_over_the_query_that_an_event_source_repeats(serve):
    served = await serve()
    served.words.say("data: 1\n\n", "data: 2\n\n", None)
    await served.post("/chat/s")
    answer = await served.get("/chat/s", params={"offset": "0"}, headers={"Last-Event-ID": "9"})
    assert answer.text == "id: 18\ndata: 2\n\n"


async def test_two_posts_at_once_begin_one_source_and_both_get_it_whole(serve):
    served = await serve()
    served.words.say("data: 1\n\n")
    posts = [asyncio.ensure_future(served.post("/chat/s")) for _ in range(5)]
    while not served.words.opened:
        await asyncio.sleep(0.005)
    served.words.say("data: 2\n\n", None)
    answers = await asyncio.gather(*posts)
    assert {answer.text for answer in answers} == {"id: 9\ndata: 1\n\nid: 18\ndata: 2\n\n"}
    assert served.words.opened == 1


async def test_a_post_after_the_end_replays_and_begins_nothing(serve):
    served = await serve()
    served.words.say("data: 1\n\n", None)
    first = await served.post("/chat/s")
    assert (await served.post("/chat/s")).text == first.text
    assert served.words.opened == 1


async def test_a_stop_keeps_the_stored_records_and_closes_the_source(serve):
    served = await serve()
    served.words.say("data: 1\n\n")
    async with served.stream("POST", "/chat/s") as response:
        parts = response.aiter_text()
        assert await anext(parts) == "id: 9\ndata: 1\n\n"
        info = await served.streams.stop("s")
        assert (info.state, info.tail) == (State.STOPPED, 9)
        assert [part async for part in parts] == []
    await asyncio.wait_for(served.words.closed.wait(), 10)


async def test_a_source_that_raises_ends_in_an_error_event(serve):
    served = await serve(own={"describe_error": lambda exc: f"sorry: {exc}"})
    served.words.say("data: 1\n\n", RuntimeError("no"))
    answer = await served.post("/chat/s")
    assert answer.text == "id: 9\ndata: 1\n\nevent: error\ndata: sorry: no\n\n"
    assert (await served.streams.info("s")).error == "sorry: no"


async def test_a_source_of_another_type_ends_in_an_error_event(serve):
    served = await serve()
    served.words.say(object())
    assert (await served.post("/chat/s")).text == "event: error\ndata: The source failed.\n\n"


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"headers": {"Last-Event-ID": "5"}}, 400, "invalid_offset"),
        ({"headers": {"Last-Event-ID": "x"}}, 400, "invalid_offset"),
        ({"headers": {"Last-Event-ID": "-1"}}, 400, "invalid_offset"),
        ({"params": {"offset": "-2"}}, 400, "invalid_offset"),
        ({"params": {"offset": "1"}}, 400, "invalid_offset"),
        ({"params": {"offset": "\u0661"}}, 400, "invalid_offset"),
        ({"params": {"offset": "19"}}, 416, "offset_out_of_range"),
    ],
)
async def test_an_offset_inside_an_event_is_refused(serve, options, status, code):
    served = await serve()
    served.words.say("data: 1\n\n", "data: 2\n\n", None)
    await served.post("/chat/s")
    answer = await served.get("/chat/s", **options)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_the_offset_minus_one_is_the_start(serve):
    served = await serve()
    served.words.say("data: a\n\n", None)
    whole = (await served.post("/chat/s")).text
    assert (await served.get("/chat/s", params={"offset": -1})).text == whole


async def test_a_stream_that_does_not_exist_is_answered_as_the_endpoint_says(serve):
    served = await serve()
    answer = await served.get("/chat/none")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await served.get("/chat/none", params={"missing": 204})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_finished_stream_is_replayed_and_then_204_ends_the_reconnects(serve):
    served = await serve()
    served.words.say("data: 1\n\n", None)
    await served.post("/chat/s")
    assert (await served.get("/chat/s")).text == "id: 9\ndata: 1\n\n"
    answer = await served.get("/chat/s", headers={"Last-Event-ID": "9"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await served.get("/chat/s", params={"live": True})).status_code == 204


async def test_an_async_ending_is_sent_at_the_end_and_again_if_it_is_asked_for(serve):
    async def ending(info):
        await asyncio.sleep(0)
        return b"data: %b\n\n" % info.state.value.encode()

    served = await serve(own={"ending": ending})
    served.words.say("data: 1\n\n", None)
    response = await served.post("/chat/s")
    assert response.text == "id: 9\ndata: 1\n\ndata: done\n\n"
    assert (await served.get("/chat/s?offset=9")).status_code == 204
    assert (await served.get("/chat/s?offset=9&ending=true")).text == "data: done\n\n"


async def test_a_source_of_another_library_is_closed_by_its_own_close(serve):
    class Events:
        """Events as the clients of `openai` and `anthropic` give them."""

        closed = asyncio.Event()

        async def __aiter__(self):
            yield "data: 1\n\n"
            await asyncio.Event().wait()

        async def close(self):
            self.closed.set()

    served = await serve()
    await served.streams.start("s", Events())
    async with cut(served.stream("GET", "/chat/s"), 1):
        await served.streams.stop("s")
    await asyncio.wait_for(Events.closed.wait(), 30)


async def test_own_event_ids_are_found_again(serve):
    served = await serve(event_ids="own")
    served.words.say("id: a\ndata: 1\n\n", "id:b\ndata: 2\n\n", "data: 3\n\n", None)
    whole = (await served.post("/chat/s")).text
    assert whole == "id: a\ndata: 1\n\nid:b\ndata: 2\n\ndata: 3\n\n"
    for event_id, rest in (("a", "id:b\ndata: 2\n\ndata: 3\n\n"), ("b", "data: 3\n\n")):
        answer = await served.get("/chat/s", headers={"Last-Event-ID": event_id})
        assert answer.text == rest
    answer = await served.get("/chat/s", headers={"Last-Event-ID": "c"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_offset")


async def test_bytes_of_any_media_type_resume_at_any_record(serve):
    served = await serve(media_type="audio/mpeg")
    served.words.say(b"\x00\xff", b"\xfe", None)
    answer = await served.post("/chat/s")
    assert (answer.content, answer.headers["content-type"]) == (b"\x00\xff\xfe", "audio/mpeg")
    assert (await served.get("/chat/s", params={"offset": 2})).content == b"\xfe"


async def test_a_plain_iterator_runs_in_a_thread_and_holds_up_nothing(serve):
    served = await serve()

    def plain():
        yield "data: 1\n\n"
        yield "data: 2\n\n"

    await served.streams.start("s", plain)
    assert (await served.get("/chat/s")).text == "id: 9\ndata: 1\n\nid: 18\ndata: 2\n\n"


async def test_without_http_it_is_records_and_bodies():
    async with MemoryStreamStore() as store, ResumableStreams(store) as streams:

        async def source():
            yield "data: 1\n\n"
            yield "data: 2\n\n"

        await streams.start("s", source())
        assert [record.data async for record in streams.follow("s", 9)] == [b"data: 2\n\n"]
        assert [part async for part in streams.body("s", offset=9)] == [b"id: 18\ndata: 2\n\n"]
        with pytest.raises(StreamNotFound):
            await anext(streams.follow("none"))


async def with_a_silence(first: str, second: str, go_on: asyncio.Event):
    yield first
    await go_on.wait()
    yield second


async def test_bodies_have_pings_between_events():
    """A framework that sends them itself would else not learn that its client has left."""
    go_on = asyncio.Event()
    async with (
        MemoryStreamStore() as store,
        ResumableStreams(store, ping_interval=0.05) as streams,
    ):
        await streams.start("s", with_a_silence("data: 1\n\n", "data: 2\n\n", go_on))
        body, other = streams.body("s"), streams.body("s")
        for each in body, other:
            parts = [await asyncio.wait_for(anext(each), 60) for _ in range(3)]
            assert parts == [b"id: 9\ndata: 1\n\n", b":\n\n", b":\n\n"]
        await other.aclose()  # in the middle of a silence
        go_on.set()
        assert [part async for part in body if part != b":\n\n"] == [b"id: 18\ndata: 2\n\n"]


async def test_an_error_after_the_last_ping_is_not_left_unread():
    """asyncio would log it in some garbage collection."""

    async def failing():
        await asyncio.sleep(0.05)
        raise ValueError
        yield b""

    reported = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    bodies = with_pings(failing(), b":", 0.01)
    assert await anext(bodies) == b":"
    await asyncio.sleep(0.2)  # it fails meanwhile, and the client has left
    await bodies.aclose()
    gc.collect()
    assert not reported


@pytest.mark.parametrize(
    ("media_type", "interval"), [("text/plain", 0.01), ("text/event-stream", math.inf)]
)
async def test_bodies_without_pings(media_type: str, interval: float) -> None:
    """Text has no comments, and an endless interval needs no timer."""
    first, second = "data: 1\n\n", "data: 2\n\n"
    go_on = asyncio.Event()
    async with (
        MemoryStreamStore() as store,
        ResumableStreams(store, ping_interval=interval) as streams,
    ):
        source = with_a_silence(first, second, go_on)
        await streams.start("s", source, media_type=media_type)
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        parts = [part.decode() async for part in streams.body("s")]
    assert [part[part.index("data") :] for part in parts] == [first, second]


async def test_a_closed_process_hands_over_and_another_one_goes_on():
    """Two objects stand for two processes here; `tests/faults` kills a real one."""
    async with MemoryStreamStore() as store:

        async def first():
            yield "data: 1\n\n"
            await asyncio.Event().wait()

        async def rest():
            yield "data: 2\n\n"

        one = ResumableStreams(store, revive=lambda info: rest())
        two = ResumableStreams(store, revive=lambda info: rest())
        await one.start("s", first())
        follower = two.follow("s")
        assert (await anext(follower)).data == b"data: 1\n\n"
        await one.aclose()
        assert [record.data async for record in follower] == [b"data: 2\n\n"]
        response = await one.response("t", first())
        assert response.status_code == 503
        await two.aclose()
