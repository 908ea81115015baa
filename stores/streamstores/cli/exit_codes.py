"""The exit codes of the commands, and the errors that they stand for."""

from __future__ import annotations

from streamstores.errors import (
    Conflict,
    CorruptData,
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)

__all__ = [
    "EXIT_BAD_REQUEST",
    "EXIT_BROKEN_PIPE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "exit_code_of",
]

EXIT_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (InvalidRequest, EXIT_BAD_REQUEST),
    (ImportError, EXIT_BAD_REQUEST),
    (StreamNotFound, 3),
    (Conflict, 4),
    (StreamClosed, 4),
    (StreamExists, 4),
    (StoreUnavailable, 5),
    (OutcomeUnknown, 6),
    (CorruptData, 7),
    (OSError, EXIT_FAILED),
)


def exit_code_of(error: Exception) -> int | None:
    """The exit code of an error that a command reports in one line; None for a defect."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)
