"""A response that sends a stream to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamstores import observation
from streamstores.errors import InvalidRequest, OffsetOutOfRange
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.exchange import Exchange
from streamstores.http.resumable.framings import EVENT_STREAM

__all__ = ["Sender", "StreamResponse", "refused", "stream_headers"]

_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")

Sender = Callable[[Exchange, "StreamResponse"], Awaitable[None]]


class StreamResponse(Response):
    """A Starlette response, which FastAPI and Starlette return from an endpoint as it is.

    It is an ASGI application too: `await response(scope, receive, send)`. It begins to read the
    stream when it is called.
    """

    def __init__(
        self,
        send_stream: Sender,
        offset: int,
        *,
        media_type: str,
        status_code: int,
        headers: Mapping[str, str],
    ) -> None:
        # Not `super().__init__`, which renders a body and sets its Content-Length.
        self.status_code = status_code
        self.offset = offset
        """Where it begins in the stream."""
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        self._send_stream = send_stream
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await Response(status_code=self.status_code, headers=dict(self.headers))(
                scope, receive, send
            )
            return
        if observation.observer is None:
            await self._send_stream(Exchange(scope, receive, send), self)
            return
        with observation.observer.request(scope, send, None) as observed:
            await self._send_stream(Exchange(scope, receive, observed), self)


def refused(exc: Exception) -> Response:
    """The answer to a request that raised this."""
    if isinstance(exc, InvalidRequest) and not isinstance(exc, OffsetOutOfRange):
        return HttpError(400, "invalid_request", str(exc)).response()
    return refusal_of(exc).response()


def stream_headers(
    stream_id: str, offset: int, media_type: str, own: Mapping[str, str] | None
) -> dict[str, str]:
    """The headers of a response; the application's own take precedence."""
    headers = {
        # An id may be any text, and a header is latin-1 without line breaks. The percent sign
        # is quoted as well, so that clients can unquote without doubt.
        "X-Stream-Id": quote(stream_id, safe=_PRINTABLE),
        "X-Stream-Offset": str(offset),
        "Cache-Control": "no-cache, no-transform",
        # nginx buffers what it proxies by default, and events would arrive in bursts.
        "X-Accel-Buffering": "no",
    }
    if media_type.startswith(EVENT_STREAM) and "charset" not in media_type:
        headers["Content-Type"] = f"{media_type}; charset=utf-8"
    taken = {name.lower() for name in own or ()}
    return {
        **{name: value for name, value in headers.items() if name.lower() not in taken},
        **(own or {}),
    }
