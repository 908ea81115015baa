"""The requests of the chat handler's clients: fields, types, bounds, permission."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from streamstores.http._asgi import requests
from streamstores.http._asgi.authorize import Authorize, check_allowed
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.http.chat.models import Model, StreamRequest
from streamstores.limits import Limits

__all__ = ["ChatRequests", "start_offset", "wants_json_text"]

_DIGITS = re.compile("[0-9]{1,20}")


@dataclass(frozen=True)
class ChatRequests:
    """Reads the requests of a chat handler, and checks that they are allowed."""

    models: Mapping[str, Model]
    authorize: Authorize | None
    new_id: Callable[[StreamRequest], str]
    max_body_bytes: int
    max_prompt_bytes: int

    async def read_fields(self, exchange: Exchange) -> dict[str, Any]:
        return await requests.read_object(exchange, self.max_body_bytes)

    def stream_request(
        self, fields: Mapping[str, Any], exchange: Exchange, limits: Limits | None
    ) -> StreamRequest:
        """The request for a model, with the client's id or a new id.

        Without `limits` it has no id, because then nothing is kept. Raises `HttpError` for a
        field that is missing or has the wrong type.
        """
        request = StreamRequest(
            prompt=_read_prompt(fields, self.max_prompt_bytes),
            system=_optional_text(fields, "system", "invalid_system"),
            model=self._model_name(fields),
            session_id=_optional_text(fields, "sessionId", "invalid_session_id"),
            messages=_read_messages(fields),
            id=_given_id(fields, limits),
            scope=exchange.scope,
        )
        if limits is None or request.id:
            return request
        return replace(request, id=self.new_id(request))

    async def check(self, exchange: Exchange, stream_id: str, *actions: str) -> None:
        """Raise `HttpError` `forbidden` unless `authorize` allows each of the actions."""
        if self.authorize is None:
            return
        for action in actions:
            await check_allowed(self.authorize, exchange, stream_id, action)

    def _model_name(self, fields: Mapping[str, Any]) -> str:
        name = fields.get("model")
        if name is None:
            return next(iter(self.models))
        if not isinstance(name, str) or name not in self.models:
            raise HttpError(400, "unknown_model", "no model of that name")
        return name


def _read_prompt(fields: Mapping[str, Any], max_bytes: int) -> str:
    """The prompt. Raises `HttpError` 400, or 413 if its UTF-8 is over `max_bytes`."""
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        raise HttpError(400, "missing_prompt", "a prompt is required")
    if not isinstance(prompt, str):
        raise HttpError(400, "invalid_prompt", "the prompt is not a string")
    # JSON can escape half of a surrogate pair, which a plain `encode` refuses.
    if len(prompt.encode(errors="surrogatepass")) > max_bytes:
        raise HttpError(413, "too_large", f"the prompt is over {max_bytes} bytes")
    return prompt


def _given_id(fields: Mapping[str, Any], limits: Limits | None) -> str:
    """The id that the client has chosen; empty if it has not, or if nothing is kept."""
    stream_id = fields.get("id")
    if limits is None or stream_id is None:
        return ""
    return requests.check_id(stream_id, limits)


def _optional_text(fields: Mapping[str, Any], name: str, code: str) -> str | None:
    """A field that may be missing or null. Raises `HttpError` 400 with `code`."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(400, code, f"{name} is not a string")
    return value


def _read_messages(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The conversation: a list of objects. Raises `HttpError` `invalid_messages`."""
    messages: Any = fields.get("messages")
    if messages is None:
        return ()
    is_list = isinstance(messages, list)
    found = cast("list[Mapping[str, Any]]", messages)
    if not is_list or not all(isinstance(message, dict) for message in found):
        raise HttpError(400, "invalid_messages", "messages is not a list of objects")
    return tuple(found)


def start_offset(after: Any, exchange: Exchange) -> int:
    """The offset to send from: `after`, or a `Last-Event-ID` that is a number, or 0.

    Raises `HttpError` `invalid_after`.
    """
    if after is None:
        # An id that is no number is ignored. An `EventSource` repeats the id that any earlier
        # server has given it, and could not go on if it were refused.
        last_event_id = exchange.headers.get("last-event-id", "")
        return int(last_event_id) if _DIGITS.fullmatch(last_event_id) else 0
    if isinstance(after, str) and _DIGITS.fullmatch(after):
        return int(after)
    # Not `isinstance`: `true` in JSON is an int for Python.
    if type(after) is int and after >= 0:
        return after
    raise HttpError(400, "invalid_after", "after must be an offset, 0 or higher")


def wants_json_text(exchange: Exchange) -> bool:
    """Whether `Accept` has `text/event-stream; text=json`."""
    for media_range in exchange.headers.get("accept", "").lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type == "text/event-stream" and "text=json" in parameters:
            return True
    return False
