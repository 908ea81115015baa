"""Refusals: an HTTP status and JSON `{"error": message, "code": code}`.

`refusal_of` has the only table from errors to refusals, for all handlers. Endpoints raise
`HttpError` themselves for bad requests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from streamstores import logs
from streamstores.errors import (
    CorruptData,
    LimitExceeded,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
)
from streamstores.runs import TooManyRuns

__all__ = ["RETRY_SOON", "HttpError", "refusal_of"]

RETRY_SOON = {"Retry-After": "2"}

_log = logging.getLogger("streamstores.http")


class HttpError(Exception):
    """A refusal. `code` is stable across versions; `details` are added to the JSON body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: dict[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers: dict[str, str] = headers or {}
        self.details = details

    def response(self) -> JSONResponse:
        # Caches may keep a 404, 405, 414 or 501 that does not forbid it (RFC 9110, 15.1), and a
        # stream that does not exist now may exist in a second.
        body = {"error": str(self), "code": self.code, **self.details}
        return JSONResponse(body, self.status, {"Cache-Control": "no-store", **self.headers})


_REFUSALS: Mapping[type[Exception], tuple[int, str, str | None, dict[str, str]]] = {
    # error: (status, code, message or None for the error's own, headers)
    StreamNotFound: (404, "not_found", "no such stream", {}),
    LimitExceeded: (413, "too_large", None, {}),
    TooManyRuns: (429, "too_many_streams", None, RETRY_SOON),
    StoreUnavailable: (503, "store_unavailable", "the store cannot be used now", RETRY_SOON),
    OutcomeUnknown: (
        503,
        "outcome_unknown",
        "this may have been applied: read before you retry",
        RETRY_SOON,
    ),
}


def refusal_of(exc: Exception, *, failed: str = "a request failed") -> HttpError:
    """The refusal that an error stands for.

    An error that is not in the table is a fault of the server: it is logged under the message
    `failed`, and the client learns only that there was a fault.
    """
    if isinstance(exc, HttpError):
        return exc
    if isinstance(exc, OffsetOutOfRange):
        # Not in the table, because the tail tells the client how far it may go.
        message = f"the stream ends at {exc.tail}"
        return HttpError(416, "offset_out_of_range", message, tail=exc.tail)
    for kind, (status, code, text, headers) in _REFUSALS.items():
        if isinstance(exc, kind):
            return HttpError(status, code, text or str(exc), headers=headers)
    if isinstance(exc, CorruptData):  # its text says all, and a traceback would repeat the id
        _log.error("%s: %s", failed, logs.reason(exc), extra=logs.event("http.corrupt_data"))
    else:
        _log.error(failed, exc_info=exc, extra=logs.event("http.request_failed"))
    return HttpError(500, "internal", "a fault of the server")
