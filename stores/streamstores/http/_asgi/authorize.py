"""`authorize`, the callback that decides whether a request is allowed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Union

from starlette.requests import Request

from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange

__all__ = ["Authorize", "check_allowed"]

Authorize = Callable[[Request, str, str], Union[bool, Awaitable[Union[bool, None]], None]]
"""`authorize(request, stream_id, action)`. The stream may not exist. The chat
handler's actions are `start`, `follow`, `continue`, `stop` and `status`; those of the
Durable Streams handler are `create`, `append`, `read` and `delete`."""

_log = logging.getLogger("streamstores.http")


async def check_allowed(
    authorize: Callable[..., object], exchange: Exchange, *arguments: str
) -> None:
    """Raise `HttpError` 403 unless `authorize(request, *arguments)`, plain or async, allows it.

    An exception in `authorize` refuses, and is logged.
    """
    try:
        verdict = authorize(exchange.request(), *arguments)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except Exception:
        _log.exception("authorize failed, so the request is refused")
        verdict = False
    if not verdict:
        raise HttpError(403, "forbidden", "this is not allowed")
