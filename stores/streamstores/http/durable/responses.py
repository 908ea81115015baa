"""Responses whose body is complete: a status, headers and bytes."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Send

from streamstores.http._asgi.errors import HttpError

__all__ = ["HeaderList", "Responses"]

HeaderList = list[tuple[bytes, bytes]]

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_ALLOWED_METHODS = b"GET, POST, PUT, DELETE, HEAD, OPTIONS"
_ALLOWED_HEADERS = (
    b"Content-Type, Authorization, If-None-Match, Stream-Seq, Stream-TTL, Stream-Expires-At, "
    b"Stream-Closed, Producer-Id, Producer-Epoch, Producer-Seq, Stream-Forked-From, "
    b"Stream-Fork-Offset, Stream-Fork-Sub-Offset"
)
_EXPOSED_HEADERS = (
    b"Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-TTL, "
    b"Stream-Expires-At, Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, "
    b"Producer-Expected-Seq, Producer-Received-Seq, ETag, Location, Content-Type, Retry-After"
)


class Responses:
    """Sends responses, each with the headers that all of them have."""

    def __init__(self, allow_origin: str | None) -> None:
        self.common: HeaderList = [
            _NOSNIFF,
            # Clients choose the content type, so one could store a page whose script would run
            # with the rights of the application's own pages in another user's browser.
            (b"content-security-policy", b"sandbox"),
            # Pages that isolate themselves (Cross-Origin-Embedder-Policy) may load nothing
            # without it.
            (b"cross-origin-resource-policy", b"cross-origin"),
        ]
        self._preflight: HeaderList = []
        if allow_origin is not None:
            self.common += [
                (b"access-control-allow-origin", allow_origin.encode("latin-1")),
                (b"access-control-expose-headers", _EXPOSED_HEADERS),
            ]
            self._preflight = [
                (b"access-control-allow-methods", _ALLOWED_METHODS),
                (b"access-control-allow-headers", _ALLOWED_HEADERS),
                (b"access-control-max-age", b"86400"),
            ]

    async def send(
        self,
        send: Send,
        status: int,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send a response. `body` is None if the status or the method allows none."""
        all_headers = [*self.common, *headers]
        if body is not None:
            all_headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        await send({"type": "http.response.body", "body": body or b""})

    async def confirm(
        self, send: Send, status: int, headers: HeaderList, *, has_origin: bool
    ) -> None:
        """Answer an append.

        The CORS headers are sent only if the request has an `Origin`: writing them costs more
        than an append in memory. No cache keeps this response, so it need not vary.
        """
        all_headers = [*(self.common if has_origin else (_NOSNIFF,)), *headers]
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        await send({"type": "http.response.body", "body": b""})

    async def refuse(self, send: Send, error: HttpError, *, with_body: bool = True) -> None:
        """Answer with a refusal. `HEAD` must not have a body."""
        response = error.response()
        # `send` writes the length, and HTTP/1.1 forbids two of them that differ.
        headers = [each for each in response.raw_headers if each[0] != b"content-length"]
        body = bytes(response.body) if with_body else None
        await self.send(send, error.status, headers, body)

    async def allow(self, send: Send) -> None:
        """Answer a preflight request."""
        await self.send(send, 204, self._preflight)
