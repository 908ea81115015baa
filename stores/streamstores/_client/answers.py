"""What an answer of the chat handler means: read it, try again, or give up."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from streamstores._client.statuses import StreamError

DEFAULT_PING_SECONDS = 15.0
LONGEST_RETRY_AFTER_SECONDS = 60.0

# And every 5xx, because proxies have codes of their own from 520 on.
_TRY_AGAIN = frozenset({408, 425, 429})
_NOTHING_HAPPENED = frozenset({429, 503})  # a proxy's 502 cannot know


class Cut(Exception):
    """A connection that ended too early, or an answer that says to try again.

    With `nothing_happened` the server said so, and the same request may be repeated.
    `retry_after` is the pause in seconds that the server asks for.
    """

    def __init__(
        self, reason: str, *, nothing_happened: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.nothing_happened = nothing_happened
        self.retry_after = retry_after


async def check_answer(response: Any, content_type: str, *, was_answered: bool) -> None:
    """Raise `Cut` for an answer that says to try again, `StreamError` for a refusal.

    `was_answered` says that a chat handler is known to be at this address. A successful
    answer of another type then comes from something in between, such as a proxy or a
    sign-in page, and is a cut. Otherwise the address is probably wrong, which is an error.
    """
    status = response.status_code
    if response.is_success:
        answered = response.headers.get("Content-Type", "no content type").lower()
        if not answered.startswith(content_type):
            message = f"the server answered {answered}, not {content_type}"
            raise Cut(message) if was_answered else StreamError(message, code="bad_answer")
        return
    # The body of a stream is not read by itself, and the error is in it.
    await response.aread()
    message, code = _refusal(response)
    if status in _TRY_AGAIN or status >= 500:
        pause = retry_after_seconds(response.headers.get("Retry-After"))
        raise Cut(message, nothing_happened=status in _NOTHING_HAPPENED, retry_after=pause)
    raise StreamError(message, code=code, status=status)


def _refusal(response: Any) -> tuple[str, str]:
    """Message and code of an error. Errors of a proxy or a framework have no code."""
    with suppress(ValueError, KeyError, TypeError):
        answer = response.json()
        return str(answer["error"]), str(answer["code"])
    return f"HTTP {response.status_code} {response.reason_phrase}".rstrip(), "http_error"


def retry_after_seconds(value: str | None) -> float:
    """Seconds of the header Retry-After, a number or a date: at most 60, and 0 without it.

    The bound guards against a date seen by a clock that is behind.
    """
    seconds = 0.0
    if value and value.isdecimal():
        seconds = float(value)
    elif value:
        with suppress(ValueError, TypeError):
            moment = parsedate_to_datetime(value)
            seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def text_of_json(data: str) -> str:
    """The text of an event `text`, which is a JSON string."""
    with suppress(ValueError):
        text = json.loads(data)
        if isinstance(text, str):
            return text
    raise StreamError("an event `text` is not a JSON string", code="bad_answer")


def ping_seconds(response: Any) -> float:
    """Seconds between the server's pings."""
    with suppress(ValueError):
        seconds = float(response.headers.get("X-Stream-Ping", ""))
        if 0 < seconds < float("inf"):
            return seconds
    return DEFAULT_PING_SECONDS
