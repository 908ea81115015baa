"""From what redis-py, the server and this backend raise to the errors of the contract."""

from __future__ import annotations

import asyncio
import re

from redis.exceptions import MovedError, RedisClusterException, RedisError, ResponseError

from streamstores.backends._redis.router import is_refused
from streamstores.backends._redis.shared_connection import NotSent, ReplyLost
from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamStoreError,
)

# Errors that a server gives if the data, not the server, is at fault.
_CORRUPT = re.compile("WRONGTYPE|CORRUPT|user_script|specified in XADD")
# Some of these arrive inside the text of a failed script.
_UNAVAILABLE = re.compile("OOM|MISCONF|READONLY|NOREPLICAS|NOPERM|CLUSTERDOWN|BUSY|permission")

# Only from finding a server: requests to one fail in other ways. `RedisClusterException` is no
# `RedisError` (redis-py 8.1).
_UNREACHABLE = (RedisError, RedisClusterException, OSError, asyncio.TimeoutError)


class ErrorTranslation:
    """A context manager that raises the contract's error, with the original as its cause.

    Only a mutation has an `OutcomeUnknown`; a read whose reply is lost may be repeated freely.
    A class, and one object for all calls: a generator would cost more than the rest of it.
    """

    def __init__(self, *, is_mutation: bool) -> None:
        self._lost = OutcomeUnknown if is_mutation else StoreUnavailable

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        """Raise the error that stands for `exc`; one that is none of Redis passes through."""
        if isinstance(exc, NotSent):
            refusal = InvalidRequest if is_refused(exc) else StoreUnavailable
            raise refusal(f"Redis: {exc}") from exc.__cause__
        if isinstance(exc, ReplyLost):
            raise self._lost(f"Redis: {exc}") from exc.__cause__
        if isinstance(exc, ResponseError):
            raise _error_of_reply(exc) from exc
        if isinstance(exc, _UNREACHABLE):
            raise StoreUnavailable(f"Redis: {exc or type(exc).__name__}") from exc


ASKING = ErrorTranslation(is_mutation=False)
MUTATING = ErrorTranslation(is_mutation=True)


def _error_of_reply(exc: ResponseError) -> StreamStoreError:
    """For a script that failed. Each begins with what may fail, so nothing was applied."""
    text = str(exc)
    if isinstance(exc, MovedError) or text.startswith("MOVED"):
        return StoreUnavailable("Redis: a cluster is opened by redis+cluster://")
    # The driver has subclasses for states of a server. Only a plain error can be about the
    # data.
    is_about_server = type(exc) is not ResponseError or _UNAVAILABLE.search(text)
    if _CORRUPT.search(text) and not is_about_server:
        return CorruptData(f"Redis: {text}")
    return StoreUnavailable(f"Redis: {text}")
