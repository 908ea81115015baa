"""What the command `doctor` reports."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["Finding", "Severity", "error", "note", "warning"]


class Severity(Enum):
    """How much a finding matters."""

    ERROR = "error"
    """Data is lost, or the store does not work."""
    WARNING = "warning"
    """A failure that can be expected loses data, or stops the store."""
    NOTE = "note"
    """A fact to know, or something that could not be examined."""


class Finding(NamedTuple):
    """One thing that is wrong or risky."""

    severity: Severity
    code: str
    """A stable name, such as `redis.eviction`."""
    meaning: str
    """What was found, and what follows from it."""
    advice: str
    """What to do about it."""


def error(code: str, meaning: str, advice: str) -> Finding:
    return Finding(Severity.ERROR, code, meaning, advice)


def warning(code: str, meaning: str, advice: str) -> Finding:
    return Finding(Severity.WARNING, code, meaning, advice)


def note(code: str, meaning: str, advice: str) -> Finding:
    return Finding(Severity.NOTE, code, meaning, advice)
