"""Reading a request: its body within bounds, its fields with their types, its offset."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect

from streamstores.errors import InvalidRequest
from streamstores.http.app import Exchange
from streamstores.http.errors import HttpError
from streamstores.limits import Limits, check_stream_id

__all__ = [
    "check_id",
    "optional_text",
    "query_of",
    "read_body",
    "read_messages",
    "read_object",
    "read_prompt",
    "start_offset",
    "wants_json_text",
]

_DIGITS = re.compile("[0-9]{1,20}")


async def read_object(exchange: Exchange, max_bytes: int) -> dict[str, Any]:
    """The body, which stays in `exchange.body`, as a JSON object.

    Raises `HttpError` `too_large` as soon as it is known to be over `max_bytes` (by its
    Content-Length before anything is read, else by counting what arrives), `invalid_json`,
    and `ClientDisconnect` where the client left in the middle.
    """
    exchange.body = await read_body(
        exchange, max_bytes, exchange.headers.get("content-length", "")
    )
    try:
        fields = json.loads(exchange.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise HttpError(400, "invalid_json", "the body is not JSON") from exc
    if not isinstance(fields, dict):
        raise HttpError(400, "invalid_json", "the body is not a JSON object")
    return fields


async def read_body(exchange: Exchange, max_bytes: int, announced: str) -> bytes:
    """The body; `announced` is its Content-Length. Raises `HttpError` `too_large` and
    `ClientDisconnect` as `read_object` does."""
    size = int(announced) if _DIGITS.fullmatch(announced) else 0
    parts = []
    received = 0
    while max(size, received) <= max_bytes:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        received += len(parts[-1])
        if not message.get("more_body", False) and received <= max_bytes:
            return b"".join(parts)
    raise HttpError(413, "too_large", f"the body is over {max_bytes} bytes")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_prompt(fields: Mapping[str, Any], max_bytes: int) -> str:
    """The prompt. Raises `HttpError` 400, or 413 where its UTF-8 is over `max_bytes`."""
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise HttpError(400, "missing_prompt", "a prompt is required")
    if not isinstance(prompt, str):
        raise HttpError(400, "invalid_prompt", "the prompt is not a string")
    if len(prompt.encode(errors="surrogatepass")) > max_bytes:
        raise HttpError(413, "too_large", f"the prompt is over {max_bytes} bytes")
    return prompt


def optional_text(fields: Mapping[str, Any], name: str, code: str) -> str | None:
    """A field that may be missing or null. Raises `HttpError` 400 with `code`."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(400, code, f"{name} is not a string")
    return value


def read_messages(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The conversation: a list of objects. Raises `HttpError` `invalid_messages`."""
    messages = fields.get("messages")
    if messages is None:
        return ()
    is_list = isinstance(messages, list)
    if not is_list or not all(isinstance(message, dict) for message in messages):
        raise HttpError(400, "invalid_messages", "messages is not a list of objects")
    return tuple(messages)


def check_id(stream_id: Any, limits: Limits) -> str:
    """The stream id. Raises `HttpError` `invalid_id`."""
    try:
        check_stream_id(stream_id, limits)
    except InvalidRequest as exc:
        raise HttpError(400, "invalid_id", str(exc)) from exc
    assert isinstance(stream_id, str)
    return stream_id


def query_of(exchange: Exchange) -> dict[str, str]:
    query: bytes = exchange.scope.get("query_string", b"")
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def start_offset(after: Any, exchange: Exchange) -> int:
    """The offset to send from: `after`, else `Last-Event-ID` where it is a number, else 0.

    Raises `HttpError` `invalid_after`.
    """
    if after is None:
        last_event_id = exchange.headers.get("last-event-id", "")
        return int(last_event_id) if _DIGITS.fullmatch(last_event_id) else 0
    if isinstance(after, str) and _DIGITS.fullmatch(after):
        return int(after)
    if type(after) is int and after >= 0:
        return after
    raise HttpError(400, "invalid_after", "after is not an offset from 0")


def wants_json_text(exchange: Exchange) -> bool:
    """Whether `Accept` has `text/event-stream; text=json`."""
    for media_range in exchange.headers.get("accept", "").lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type == "text/event-stream" and "text=json" in parameters:
            return True
    return False
