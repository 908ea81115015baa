"""What an error of asyncpg or of the server means to the caller of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import asyncpg

from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamStoreError,
)

NETWORK_ERRORS = (OSError, asyncio.TimeoutError, asyncpg.InternalClientError)
"""Raised when a connection breaks or an answer does not come in time."""

# Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SESSION_LOST = ("57P01", "57P02", "40003")  # shutdown, crash, completion unknown
_CORRUPT = ("XX001", "XX002")


@contextmanager
def translate_errors(*, mutates: bool = False) -> Generator[None, None, None]:
    """Turn every error of the driver and of the server into one of the contract's.

    An error that the server reports while its session lives on has rolled the statement back:
    nothing was applied. A session that ends in the middle of a statement leaves the outcome
    open, which only matters if the statement `mutates`.
    """
    try:
        yield
    # First, because it is an InterfaceError and a ValueError as well.
    except asyncpg.ClientConfigurationError as exc:
        raise InvalidRequest(_text(exc)) from exc
    except asyncpg.PostgresError as exc:
        raise _server_error(exc, mutates=mutates) from exc
    except asyncpg.InterfaceError as exc:  # refused by asyncpg itself, before it sent anything
        raise StoreUnavailable(_text(exc)) from exc
    except ValueError as exc:  # a part of the URL that asyncpg cannot read
        raise InvalidRequest(_text(exc)) from exc
    except NETWORK_ERRORS as exc:
        error = OutcomeUnknown if mutates else StoreUnavailable
        raise error(_text(exc)) from exc


def _server_error(exc: asyncpg.PostgresError, *, mutates: bool) -> StreamStoreError:
    code = exc.sqlstate or ""
    text = f"{_text(exc)} ({code})"
    if code in _CORRUPT:
        return CorruptData(text)
    # The server may have committed and failed to say so. Only then is the outcome open: any
    # other error of the server is a rollback.
    if mutates and (code.startswith("08") or code in _SESSION_LOST):
        return OutcomeUnknown(text)
    return StoreUnavailable(text)


def _text(exc: BaseException) -> str:
    """The driver's words, or if it has none, ours: a timeout and a reset socket say nothing."""
    words = str(exc).strip()
    if not words:
        is_timeout = isinstance(exc, asyncio.TimeoutError)
        words = "no answer in time" if is_timeout else f"the driver raised {type(exc).__name__}"
    return f"PostgreSQL: {words}"
