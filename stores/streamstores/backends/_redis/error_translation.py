"""From what redis-py, the server and this backend raise to the errors of the contract."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from contextlib import contextmanager

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


@contextmanager
def translate_errors(*, is_mutation: bool) -> Generator[None, None, None]:
    """Raise the contract's error, with the original as its cause.

    Only a mutation has an `OutcomeUnknown`; a read whose reply is lost may be repeated freely.
    """
    try:
        yield
    except NotSent as exc:
        kind = InvalidRequest if is_refused(exc) else StoreUnavailable
        raise kind(f"Redis: {exc}") from exc.__cause__
    except ReplyLost as exc:
        error = OutcomeUnknown if is_mutation else StoreUnavailable
        raise error(f"Redis: {exc}") from exc.__cause__
    except ResponseError as exc:
        raise _error_of_reply(exc) from exc
    except (RedisError, RedisClusterException, OSError, asyncio.TimeoutError) as exc:
        # Only from finding a server: requests to one fail as above. `RedisClusterException`
        # is no `RedisError` (redis-py 8.1).
        raise StoreUnavailable(f"Redis: {exc or type(exc).__name__}") from exc


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
