"""What a client of LangGraph asks for when it begins a run. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from streamstores.http._asgi.errors import HttpError

__all__ = ["config_of", "given_of", "modes_of_graph", "run_of", "strategy_of"]

_MODES = {
    **{name: name for name in ("values", "updates", "custom", "debug", "tasks", "checkpoints")},
    "messages-tuple": "messages",
}
"""The stream modes of LangGraph's clients, and what the graph calls them."""

_OPTIONS = ("context", "interrupt_before", "interrupt_after", "durability")
_REFUSED = ("webhook", "after_seconds", "feedback_keys", "checkpoint", "checkpoint_id")
_CONFIG = frozenset({"configurable", "metadata", "recursion_limit", "tags"})
_STRATEGIES = ("reject", "interrupt")


def run_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps, besides its input: JSON, with which another process can continue it.

    Raises `HttpError` 422 for what this endpoint does not do, so that no client takes it for
    done.
    """
    for name in _REFUSED:
        if body.get(name):
            raise _unprocessable(f"{name} is not offered here")
    if body.get("on_disconnect") == "cancel":
        raise _unprocessable("a run goes on without readers: on_disconnect is 'continue'")
    assistant_id = body.get("assistant_id")
    if not isinstance(assistant_id, str):
        raise _unprocessable("assistant_id is a text")
    return {
        "assistant_id": assistant_id,
        "stream_mode": _modes_of(body.get("stream_mode") or "values"),
        "subgraphs": bool(body.get("stream_subgraphs")),
        "config": _client_config(body.get("config")),
        "metadata": _object_of(body, "metadata"),
        "options": {name: body[name] for name in _OPTIONS if body.get(name) is not None},
    }


def strategy_of(body: Mapping[str, Any]) -> str:
    """What is to become of another run of the same thread. Raises `HttpError` 422."""
    strategy = body.get("multitask_strategy") or "reject"
    if strategy not in _STRATEGIES:
        raise _unprocessable("multitask_strategy is 'reject' or 'interrupt' here")
    return cast("str", strategy)


def given_of(body: Mapping[str, Any]) -> Any:
    """What the graph is given: the input, or a `Command`. Raises `HttpError` 422."""
    command = body.get("command")
    if command is None:
        return body.get("input")
    if not isinstance(command, dict):
        raise _unprocessable("command is an object")
    fields = cast("dict[str, Any]", command)
    if not set(fields) <= {"resume", "update", "goto"}:
        raise _unprocessable("a command has resume, update and goto")
    present = {name: value for name, value in fields.items() if value is not None}
    return import_module("langgraph.types").Command(**present)


def config_of(run: Mapping[str, Any], user: str, thread_id: str, run_id: str) -> dict[str, Any]:
    """The config with which the graph runs. What the endpoint knows comes last: a client must
    not choose the thread, or the user, of another."""
    given = run["config"]
    own = {
        "thread_id": f"{user}/{thread_id}" if user else thread_id,
        "run_id": run_id,
        **({"langgraph_auth_user_id": user} if user else {}),
    }
    metadata = {**run["metadata"], **given.get("metadata", {}), "run_id": run_id}
    configurable = {**given.get("configurable", {}), **own}
    return {**given, "configurable": configurable, "metadata": metadata}


def modes_of_graph(modes: list[str]) -> list[str]:
    """The modes, as the graph calls them."""
    return [_MODES[mode] for mode in modes]


def _modes_of(asked: Any) -> list[str]:
    found: Any = asked
    modes: list[Any] = found if isinstance(asked, list) else [found]
    for mode in modes:
        # Not only "not in": a list or an object has no hash.
        if not isinstance(mode, str) or mode not in _MODES:
            known = ", ".join(sorted(_MODES))
            raise _unprocessable(f"stream_mode is one or more of {known}, not {mode!r}")
    return modes


def _client_config(asked: Any) -> dict[str, Any]:
    config = _object_of({"config": asked}, "config")
    if not set(config) <= _CONFIG:
        raise _unprocessable(f"config has {', '.join(sorted(_CONFIG))}")
    configurable = _object_of(config, "configurable")
    # Names with two underscores are those of LangGraph's own machinery.
    allowed = {name: value for name, value in configurable.items() if name[:2] != "__"}
    return {**config, "configurable": allowed, "metadata": _object_of(config, "metadata")}


def _object_of(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value: Any = fields.get(name) or {}
    if not isinstance(value, dict):
        raise _unprocessable(f"{name} is an object")
    return cast("dict[str, Any]", value)


def _unprocessable(message: str) -> HttpError:
    return HttpError(422, "unprocessable", message)
