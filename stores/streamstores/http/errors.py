"""What the handlers answer when they refuse: an HTTP status and JSON `{"error", "code"}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from streamstores.errors import (
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamNotFound,
)
from streamstores.runs import TooManyRuns

__all__ = ["HttpError", "as_http_error"]

RETRY_AFTER_SECONDS = "2"


class HttpError(Exception):
    """An answer that is a refusal. `code` is stable; `details` join the JSON body."""

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
        self.headers = headers or {}
        self.details = details

    def response(self) -> JSONResponse:
        body = {"error": str(self), "code": self.code, **self.details}
        return JSONResponse(body, self.status, {"Cache-Control": "no-store", **self.headers})


def as_http_error(exc: Exception) -> HttpError | None:
    """The refusal that an error of a store or of `Runs` stands for; None if it is a fault."""
    retry = {"Retry-After": RETRY_AFTER_SECONDS}
    if isinstance(exc, HttpError):
        return exc
    if isinstance(exc, StreamNotFound):
        return HttpError(404, "not_found", "no such stream")
    if isinstance(exc, OffsetOutOfRange):
        message = f"the stream ends at {exc.tail}"
        return HttpError(416, "offset_out_of_range", message, tail=exc.tail)
    if isinstance(exc, TooManyRuns):
        return HttpError(429, "too_many_streams", str(exc), headers=retry)
    if isinstance(exc, (StoreUnavailable, OutcomeUnknown)):
        message = "the store cannot be used now"
        return HttpError(503, "store_unavailable", message, headers=retry)
    return None
