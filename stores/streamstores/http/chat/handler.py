"""The chat handler: model functions, served as streams that can be resumed.

`docs/wire.md` is what it speaks, `docs/chat.md` how to use it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from streamstores.backends.memory import MemoryStreamStore
from streamstores.errors import InvalidRequest
from streamstores.http._asgi.authorize import Authorize
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
    watch_signals: bool = True,
) -> StreamHandler:
    """An ASGI application that streams the answers of `models`, to run or to mount.

    `models` is one model function, or a dict of them of which the first is the default.
    `store` keeps the answers; without one, a `MemoryStreamStore` of its own. With
    `resumable=False` nothing is kept: an answer goes to the client that asked, and ends with
    its connection.

    - `authorize(request, stream_id, action)`, plain or async, is asked before anything else
      happens; what is not true, or an exception, refuses. Without it whoever knows a
      stream's id may do everything with it.
    - `new_id(stream_request)` names a stream where the client did not; by default 144 random
      bits do.
    - `ttl`: seconds that a stream lives after its last change or reader; None keeps it.
    - `heartbeat`: seconds between the signs of life of a silent stream. After three times as
      long without one its producer is taken for dead. The same wherever a store is shared.
    - `ping_interval`: seconds of silence after which a client gets a `ping`.
    - `pause_for`: seconds that a stopped model is held, so that it can go on.
    - `cancel_on_disconnect`: stop a model when the last client that reads from the process
      in which it runs has left.
    - `max_body_bytes` and `max_prompt_bytes` bound a request, `max_runs` the models that this
      process holds at a time.
    - `describe_error(exc)`: what clients are told when a model raises `exc`.
    - `watch_signals`: end with the signal that tells the server to end, which otherwise
      waits for the responses first.

    Raises `InvalidRequest` for settings that cannot be.
    """
    if not ping_interval > 0:
        raise InvalidRequest(f"ping_interval is seconds above 0, not {ping_interval!r}")
    requests = ChatRequests(
        models=_named(models),
        authorize=authorize,
        new_id=new_id or (lambda request: secrets.token_urlsafe(18)),
        max_body_bytes=max_body_bytes,
        max_prompt_bytes=max_prompt_bytes,
    )
    describe_error = describe_error or (lambda exc: "The model failed.")
    if not resumable:
        direct = DirectChat(requests, ping_interval, max_runs, describe_error, watch_signals)
        return direct.handler()
    chat = ResumableChat(
        requests,
        store or MemoryStreamStore(),
        ttl=ttl,
        heartbeat=heartbeat,
        ping_interval=ping_interval,
        pause_for=pause_for,
        cancel_on_disconnect=cancel_on_disconnect,
        max_runs=max_runs,
        describe_error=describe_error,
        owns_store=store is None,
        watch_signals=watch_signals,
    )
    return chat.handler()


def _named(models: Model | Mapping[str, Model]) -> dict[str, Model]:
    named = dict(models) if isinstance(models, Mapping) else {"default": models}
    if not named:
        raise InvalidRequest("at least one model is needed")
    for name, model in named.items():
        if not isinstance(name, str) or not callable(model):
            raise InvalidRequest(f"a model is a function under a name, not {model!r}")
    return named
