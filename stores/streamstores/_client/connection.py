"""The HTTP client that carries the requests of a stream."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol

from streamstores._client.answers import Cut, check_answer
from streamstores._client.requests import WireRequest

try:
    import anyio
    import httpx
except ModuleNotFoundError as exc:
    if exc.name not in ("anyio", "httpx"):
        raise
    raise ImportError(
        f'streamstores.client needs {exc.name}: pip install "streamstores[client]"',
        name=exc.name,
    ) from exc

REQUEST_TIMEOUT_SECONDS = 30.0
"""How long the headers of an answer may take."""

ACCEPT = "text/event-stream; text=json"
"""Asks for text with a carriage return as JSON, because plain `data:` cannot carry it."""


class HttpClient(Protocol):
    """The part of `httpx.AsyncClient` that a stream needs; `httpx2` has it too."""

    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Any = None,
        json: Any = None,
        headers: Any = None,
        timeout: Any = None,
        follow_redirects: bool = True,
    ) -> AbstractAsyncContextManager[Any]: ...

    async def aclose(self) -> None: ...


class OpenAnswer:
    """A response whose body is being read, with a bound on its silence."""

    def __init__(self, response: Any, scope: anyio.CancelScope) -> None:
        self.response = response
        self._scope = scope

    def expect_within(self, seconds: float) -> None:
        """Count the connection as lost if the body is not done after this time."""
        self._scope.deadline = anyio.current_time() + seconds


class HttpConnection:
    """Requests to one endpoint, over a client of the user's or one made at the first use."""

    def __init__(
        self, endpoint: str, client: HttpClient | None, headers: Mapping[str, str] | None
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._client = client
        self._owns_client = client is None
        self._headers = dict(headers or {})

    @asynccontextmanager
    async def open(
        self,
        request: WireRequest,
        content_type: str = "text/event-stream",
        *,
        was_answered: bool = True,
    ) -> AsyncGenerator[OpenAnswer, None]:
        """The answer to a request, whose headers are here and whose body is still to come.

        Follows redirects, as a browser does. Raises `Cut` for everything that a later
        attempt may mend and `StreamError` for a refusal; see `check_answer`.
        """
        client = self._client = self._client or httpx.AsyncClient()
        with _lost_as_cut(client), anyio.fail_after(REQUEST_TIMEOUT_SECONDS) as scope:
            async with client.stream(
                request.method,
                self.endpoint + request.path,
                params=request.query,
                json=request.body,
                # A compressed stream may be held back until the compressor has a full block.
                headers={"Accept": ACCEPT, "Accept-Encoding": "identity", **self._headers},
                timeout=None,  # the scope bounds it, because only the answer names the ping
                # Frameworks redirect /stream/ to /stream, and proxies http to https.
                follow_redirects=True,
            ) as response:
                await check_answer(response, content_type, was_answered=was_answered)
                yield OpenAnswer(response, scope)

    async def aclose(self) -> None:
        """Close the client, unless it is the user's."""
        if self._owns_client and self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


@contextmanager
def _lost_as_cut(client: HttpClient) -> Generator[None, None, None]:
    """Turn what a lost connection raises into `Cut`."""
    library = _library_of(client)
    try:
        yield
    except library.UnsupportedProtocol:
        raise  # a wrong URL stays wrong
    except library.RequestError as exc:  # of the transport, a decoder, or too many redirects
        raise Cut(str(exc) or type(exc).__name__) from exc
    except TimeoutError as exc:
        raise Cut("the server was silent for too long") from exc


def _library_of(client: HttpClient) -> Any:
    """The module whose exceptions a client raises: httpx, or a successor such as httpx2."""
    # The bases too, because a user's subclass is in a module of its own.
    for cls in type(client).__mro__:
        library = sys.modules.get(cls.__module__.partition(".")[0])
        if hasattr(library, "AsyncClient") and hasattr(library, "RequestError"):
            return library
    return httpx
