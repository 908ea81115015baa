"""What a client asks: which model, with what, and whether it may."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from starlette.requests import Request

from streamstores.http import requests
from streamstores.http.app import Exchange
from streamstores.http.errors import HttpError
from streamstores.http.sources import Model, StreamRequest
from streamstores.limits import Limits

__all__ = ["Asking", "Authorize", "is_allowed"]

Authorize = Callable[[Request, str, str], Union[bool, Awaitable[Union[bool, None]], None]]
"""`authorize(request, stream_id, action)`. The action is `start`, `follow`, `continue`, `stop`
or `status`; the stream id may be one that does not exist."""

_log = logging.getLogger("streamstores.http")


@dataclass(frozen=True)
class Asking:
    """The part of a handler that reads and judges requests."""

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
        """The request for a model, with the client's id or a new one; none without `limits`.

        Raises `HttpError` for a field that is missing or not of its type.
        """
        request = StreamRequest(
            prompt=requests.read_prompt(fields, self.max_prompt_bytes),
            system=requests.optional_text(fields, "system", "invalid_system"),
            model=self._model_name(fields),
            session_id=requests.optional_text(fields, "sessionId", "invalid_session_id"),
            messages=requests.read_messages(fields),
            scope=exchange.scope,
        )
        if limits is None:
            return request
        if fields.get("id") is None:
            return replace(request, id=self.new_id(request))
        return replace(request, id=requests.check_id(fields["id"], limits))

    async def check(self, exchange: Exchange, stream_id: str, *actions: str) -> None:
        """Raise `HttpError` `forbidden` unless `authorize` allows every one of the actions."""
        if self.authorize is None:
            return
        for action in actions:
            if not await is_allowed(self.authorize, exchange, stream_id, action):
                raise HttpError(403, "forbidden", "this is not allowed")

    def _model_name(self, fields: Mapping[str, Any]) -> str:
        name = fields.get("model")
        if name is None:
            return next(iter(self.models))
        if not isinstance(name, str) or name not in self.models:
            raise HttpError(400, "unknown_model", "no model of that name")
        return name


async def is_allowed(
    authorize: Authorize, exchange: Exchange, stream_id: str, action: str
) -> bool:
    """What `authorize` says; a failure refuses."""
    try:
        verdict = authorize(exchange.request(), stream_id, action)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except Exception:
        _log.exception("authorize failed, which refuses")
        return False
    return bool(verdict)
