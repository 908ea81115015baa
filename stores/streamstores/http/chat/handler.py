"""`create_stream_handler`: its settings, their defaults and their checks."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from streamstores.errors import InvalidRequest
from streamstores.http._asgi.authorize import Authorize
from streamstores.http._asgi.event_stream import event_stream
from streamstores.http._asgi.handler import StreamHandler
from streamstores.http.chat.direct import DirectChat
from streamstores.http.chat.models import Model, StreamRequest
from streamstores.http.chat.request import ChatRequests
from streamstores.http.chat.resumable import ResumableChat
from streamstores.store import StreamStore

__all__ = ["create_stream_handler"]


def create_stream_handler(
    models: Model | Mapping[str, Model],
    store: StreamStore | None = None,
    resumable: bool = True,
    *,
    authorize: Authorize | None = None,
    new_id: Callable[[StreamRequest], str] | None = None,
    ttl: float | None = 86_400.0,
    heartbeat: float = 5.0,
    ping_interval: float = 15.0,
    pause_for: float = 60.0,
    cancel_on_disconnect: bool = False,
    max_body_bytes: int = 1_048_576,
    max_prompt_bytes: int = 262_144,
    max_runs: int = 1000,
    describe_error: Callable[[Exception], str] | None = None,
    send_timeout: float = 60.0,
    watch_signals: bool = True,
) -> StreamHandler:
    """An ASGI application that streams the answers of `models`, to run or to mount.

    `models` is a model function, or a dict of them whose first is the default. `store` keeps
    the answers; the default is a new `MemoryStreamStore`. With `resumable=False` nothing is
    kept: an answer goes to the client that asked, and ends with its connection.

    - `authorize(request, stream_id, action)`, plain or async, is asked before anything else
      happens. Only `True` allows. Without `authorize`, every client that knows a stream's id
      may do everything with it.
    - `new_id(stream_request)` returns the id of a stream if the client chose none. The default
      is 144 random bits.
    - `ttl`: seconds that a stream lives after its last change or reader. None keeps it.
    - `heartbeat`: seconds between the signs of life of a silent stream. After three times as
      long without any its producer counts as dead. All processes that share a store must use
      the same value.
    - `ping_interval`: seconds of silence after which a client gets a `ping`.
    - `pause_for`: seconds for which a stopped model is held, so that it can go on.
    - `cancel_on_disconnect`: stop a model when its last client in the same process has left.
    - `max_body_bytes` and `max_prompt_bytes` bound a request, and `max_runs` the models that
      this process holds at a time.
    - `describe_error(exc)`: the text for clients when a model raises `exc`.
    - `send_timeout`: seconds after which a client that takes nothing is dropped, by closing
      its connection. It can reconnect and continue.
    - `watch_signals`: end on the signal that ends the server, which otherwise waits for the
      responses first.

    Raises `InvalidRequest` for settings out of range.
    """
    requests = ChatRequests(
        models=_named(models),
        authorize=authorize,
        new_id=new_id or (lambda request: secrets.token_urlsafe(18)),
        max_body_bytes=max_body_bytes,
        max_prompt_bytes=max_prompt_bytes,
    )
    describe_error = describe_error or (lambda exc: "The model failed.")
    responses = event_stream(send_timeout, ping_interval)
    if not resumable:
        direct = DirectChat(requests, responses, max_runs, describe_error, watch_signals)
        return direct.handler()
    chat = ResumableChat(
        requests,
        store or _new_memory_store(),
        ttl=ttl,
        heartbeat=heartbeat,
        responses=responses,
        pause_for=pause_for,
        cancel_on_disconnect=cancel_on_disconnect,
        max_runs=max_runs,
        describe_error=describe_error,
        owns_store=store is None,
        watch_signals=watch_signals,
    )
    return chat.handler()


def _new_memory_store() -> StreamStore:
    """The default store, by its public name: a handler imports only the contract."""
    store: StreamStore = import_module("streamstores").MemoryStreamStore()
    return store


def _named(models: Model | Mapping[str, Model]) -> dict[str, Model]:
    found: Any = models
    named: dict[str, Model] = found if isinstance(models, Mapping) else {"default": found}
    if not named:
        raise InvalidRequest("a handler needs a model")
    for name, model in named.items():
        if not isinstance(name, str) or not callable(model):
            raise InvalidRequest(
                f"models must be functions under names of type str, not {name!r}: {model!r}"
            )
    return dict(named)
