"""Parts of a request that every handler reads: a bounded body, a stream id, the query."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, cast
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect

from streamstores.errors import InvalidRequest
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.limits import Limits, check_stream_id

__all__ = ["check_id", "query_of", "read_body", "read_object"]

_DIGITS = re.compile("[0-9]{1,20}")


async def read_object(exchange: Exchange, max_bytes: int) -> dict[str, Any]:
    """The body as a JSON object. Its bytes stay in `exchange.body`.

    Raises `HttpError` `invalid_json`, and as `read_body` does.
    """
    exchange.body = await read_body(
        exchange, max_bytes, exchange.headers.get("content-length", "")
    )
    try:
        fields = json.loads(exchange.body, parse_constant=_refuse_constant)
    # RecursionError, because a few thousand brackets are well within the bound on the length.
    except (ValueError, RecursionError) as exc:
        raise HttpError(400, "invalid_json", "the body is not JSON") from exc
    if not isinstance(fields, dict):
        raise HttpError(400, "invalid_json", "the body is not a JSON object")
    return cast("dict[str, Any]", fields)


async def read_body(exchange: Exchange, max_bytes: int, announced: str) -> bytes:
    """The body; `announced` is the request's Content-Length.

    Raises `HttpError` `too_large` as soon as the body is known to be over `max_bytes`: by its
    Content-Length before anything is read, else by counting the bytes that arrive. Raises
    `ClientDisconnect` if the client leaves in the middle.
    """
    # `int` alone would also take a sign, spaces, underscores and digits of other scripts.
    size = int(announced) if _DIGITS.fullmatch(announced) else 0
    parts: list[bytes] = []
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


def check_id(stream_id: Any, limits: Limits) -> str:
    """The stream id, checked. Raises `HttpError` `invalid_id`."""
    try:
        check_stream_id(stream_id, limits)
    except InvalidRequest as exc:
        raise HttpError(400, "invalid_id", str(exc)) from exc
    assert isinstance(stream_id, str)
    return stream_id


def query_of(exchange: Exchange) -> dict[str, str]:
    query: bytes = exchange.scope.get("query_string", b"")
    # latin-1 cannot fail, and `parse_qsl` decodes what is percent-encoded as UTF-8 afterwards.
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
