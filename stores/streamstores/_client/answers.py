"""What an answer of the chat handler means: go on, try again, or give up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import httpx

DEFAULT_PING_SECONDS = 15.0
LONGEST_RETRY_AFTER_SECONDS = 60.0

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class StreamError(Exception):
    """Why a stream is not done: refused by the server, failed, or out of reach.

    `code` is the server's (`not_found`, `forbidden`, …), or `stream_error` where the model
    failed, `disconnected` where all tries failed, `http_error` for a refusal without a code,
    `bad_answer` where this is no chat handler. `status` is the HTTP status of a refusal.
    """

    def __init__(self, message: str, *, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Cut(Exception):
    """A connection that ended too early, or an answer that says to try again.

    With `nothing_happened` the server said so, and the same request may be repeated.
    """

    def __init__(
        self, reason: str, *, nothing_happened: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.nothing_happened = nothing_happened
        self.retry_after = retry_after


@contextmanager
def cuts() -> Iterator[None]:
    """Turn what a lost connection raises into `Cut`."""
    try:
        yield
    except httpx.UnsupportedProtocol:
        raise  # a wrong URL stays wrong
    except httpx.TransportError as exc:
        raise Cut(str(exc) or type(exc).__name__) from exc
    except TimeoutError as exc:
        raise Cut("the server was silent for too long") from exc


async def check(response: httpx.Response, content_type: str = "text/event-stream") -> None:
    """Raise `Cut` for an answer that says to try again, `StreamError` for a refusal."""
    if response.is_success:
        if not response.headers.get("Content-Type", "").startswith(content_type):
            raise StreamError("this is no chat handler's answer", code="bad_answer")
        return
    await response.aread()
    message, code = _refusal(response)
    if response.status_code in _TRY_AGAIN:
        refused = response.status_code in (429, 503)  # a proxy's 502 knows nothing
        raise Cut(message, nothing_happened=refused, retry_after=_retry_after(response))
    raise StreamError(message, code=code, status=response.status_code)


def _refusal(response: httpx.Response) -> tuple[str, str]:
    """Message and code of an error; a proxy's or a framework's has neither."""
    with suppress(ValueError, KeyError, TypeError):
        answer = response.json()
        return str(answer["error"]), str(answer["code"])
    return f"HTTP {response.status_code} {response.reason_phrase}".rstrip(), "http_error"


def _retry_after(response: httpx.Response) -> float:
    """Seconds of the header Retry-After, which may be a number or a date; 0 without."""
    value = response.headers.get("Retry-After", "")
    seconds = 0.0
    if value.isdecimal():
        seconds = float(value)
    elif value:
        with suppress(ValueError, TypeError):
            moment = parsedate_to_datetime(value)
            seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def ping_seconds(response: httpx.Response) -> float:
    with suppress(ValueError):
        seconds = float(response.headers.get("X-Stream-Ping", ""))
        if 0 < seconds < float("inf"):
            return seconds
    return DEFAULT_PING_SECONDS
