"""`authorize`, the callback that decides whether a request is allowed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Union

from starlette.requests import Request

from streamstores import logs
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange

__all__ = ["Authorize", "check_allowed"]

Authorize = Callable[[Request, str, str], Union[bool, Awaitable[bool]]]
"""`authorize(request, stream_id, action)`. Only `True` allows. The stream may not exist.

The chat handler's actions are `start`, `follow`, `continue`, `stop` and `status`. Those of the
Durable Streams handler are `create`, `append`, `read` and `delete`.
"""

_log = logging.getLogger("streamstores.http")


async def check_allowed(
    authorize: Callable[..., object], exchange: Exchange, *arguments: str
) -> None:
    """Raise `HttpError` 403 unless `authorize(request, *arguments)`, plain or async, is `True`.

    Truthy values do not allow: `"no"` and a 403 response object are truthy. A value that is
    not a bool refuses and is logged, and so does an exception.
    """
    try:
        verdict = authorize(exchange.request(), *arguments)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except Exception:
        _log.exception(
            "authorize failed, so the request is refused",
            extra=logs.event("http.authorize_failed"),
        )
        verdict = False
    if not isinstance(verdict, bool):
        kind = type(verdict).__name__
        _log.error(
            "authorize returned %s instead of a bool, so the request is refused",
            kind,
            extra=logs.event("http.authorize_failed"),
        )
        verdict = False
    if not verdict:
        raise HttpError(403, "forbidden", "this is not allowed")
