"""What a model may return and yield, and what a failure looks like to clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from streamstores import InvalidRequest
from streamstores.http import StreamRequest, create_stream_handler
from tests.http.conftest import Serve
from tests.http.serving import Received, Script, names, text_of


async def test_a_model_that_fails_ends_in_an_error(serve: Serve, caplog: Any) -> None:
    chat = await serve(Script().say("a", KeyError("secret")).model)
    response = await chat.post("/stream", prompt="hi", id="s")
    ending = "data: a\n\nevent: error\ndata: The model failed.\n\nevent: done\ndata: \n\n"
    assert response.text.endswith(ending)
    assert (await chat.get("/stream/status", id="s")).json()["error"] == "The model failed."
    assert "secret" in caplog.text


async def test_the_application_chooses_the_error_text_that_clients_get(serve: Serve) -> None:
    model = Script().say(KeyError("k")).model
    chat = await serve(model, describe_error=lambda exc: f"{exc!r}\n.")
    async with chat.start() as events:
        assert (await events.rest())[1] == Received("error", None, "KeyError('k')\n.")


@pytest.mark.parametrize("wrong", [b"bytes", 7, object(), ("usage", "x")])
async def test_a_piece_that_is_not_text_ends_in_an_error(serve: Serve, wrong: Any) -> None:
    script = Script().say("a", wrong, "b")
    chat = await serve(script.model)
    async with chat.start() as events:
        assert names(await events.rest()) == ["stream-id", "message", "error", "done"]
    await script.is_closed.wait()


async def test_odd_text_arrives(serve: Serve) -> None:
    odd = ["", "\0", "\u2028", "\ud800", " lead", ":", "data: no\n\nevent: x"]
    pieces = [*odd, "x" * 2_500_000]
    chat = await serve(Script().say(*pieces, None).model)
    async with chat.start() as events:
        text = text_of(await events.rest())
    assert text == "".join(pieces).replace("\ud800", "\ufffd")


async def asynchronous(request: StreamRequest) -> AsyncIterator[str]:
    yield "a"
    yield "b"


def plain(request: StreamRequest) -> Iterator[str]:
    yield "a"
    yield "b"


async def returning_an_iterator(request: StreamRequest) -> AsyncIterator[str]:
    return asynchronous(request)


async def returning_text(request: StreamRequest) -> str:
    return "ab"


def returning_a_list(request: StreamRequest) -> list[str]:
    return ["a", "b"]


class Answering:
    async def __call__(self, request: StreamRequest) -> AsyncIterator[str]:
        return asynchronous(request)


@pytest.mark.parametrize(
    "model",
    [
        asynchronous,
        plain,
        returning_an_iterator,
        returning_text,
        returning_a_list,
        Answering(),
        partial(plain),
    ],
)
async def test_models_come_in_many_shapes(serve: Serve, model: Any) -> None:
    chat = await serve(model)
    async with chat.start() as events:
        rest = await events.rest()
    assert (text_of(rest), rest[-1].name) == ("ab", "done")


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("wrong", [None, 7, {"text": "hi"}, b"hi", bytearray(b"hi")], ids=str)
async def test_a_model_that_does_not_return_an_iterator_fails(
    serve: Serve, wrong: Any, resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chat = await serve(lambda request: wrong, resumable=resumable)
    async with chat.start() as events:
        assert names(await events.rest())[-2:] == ["error", "done"]
        assert "message" not in names(await events.rest())
    assert f"not {type(wrong).__name__}" in caplog.text


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_model_that_yields_a_dict_is_told_what_to_yield(
    serve: Serve, resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chat = await serve(Script().say("a", {"usage": 7}).model, resumable=resumable)
    async with chat.start() as events:
        assert names(await events.rest())[-2:] == ["error", "done"]
    assert "a model yields str and Event, not dict" in caplog.text
    assert "Event(name, json.dumps(" in caplog.text


async def test_a_plain_model_runs_in_one_thread_of_its_own(serve: Serve) -> None:
    threads: list[int] = []
    closed = threading.Event()

    def model(request: StreamRequest) -> Iterator[str]:
        try:
            while True:
                threads.append(threading.get_ident())
                yield "a"
        finally:
            threads.append(threading.get_ident())
            closed.set()

    chat = await serve(model, pause_for=0)
    async with chat.start(id="s") as events:
        for _ in range(3):
            await events.next()
        await chat.post("/stream/stop", id="s")
    await asyncio.get_running_loop().run_in_executor(None, closed.wait)
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("exc", [ValueError("x"), StopIteration(), SystemExit(3)])
async def test_a_plain_model_that_raises_ends_in_an_error(serve: Serve, exc: Any) -> None:
    class Raising:
        def __iter__(self) -> Raising:
            return self

        def __next__(self) -> str:
            raise exc

    chat = await serve(lambda request: Raising())
    async with chat.start() as events:
        ending = "done" if isinstance(exc, StopIteration) else "error"
        assert names(await events.rest())[1] == ending


@pytest.mark.parametrize("models", [{}, 7, {"a": 7}, {1: plain}, None])
def test_invalid_models_are_refused(models: Any) -> None:
    with pytest.raises(InvalidRequest):
        create_stream_handler(models)


@pytest.mark.parametrize(
    "setting",
    [{"ping_interval": 0}, {"heartbeat": 0}, {"pause_for": -1}, {"max_runs": 0}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        create_stream_handler(plain, **setting)
