"""Resumable streams on the storage you already run.

The contract is the docstring of `streamstores.store`; `streamstores.errors` has every error.
The store classes load their drivers when they are first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamstores.appends import append_or_create
from streamstores.errors import (
    Conflict,
    CorruptData,
    InvalidRequest,
    LimitExceeded,
    OffsetOutOfRange,
    OutcomeUnknown,
    ProducerHandedOver,
    ProducerLost,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.follow import Follower, follow
from streamstores.limits import Limits
from streamstores.store import Page, Record, State, StreamInfo, StreamStore
from streamstores.store_urls import load_class as _load_class
from streamstores.store_urls import open_store
from streamstores.writer import StreamWriter

if TYPE_CHECKING:
    from streamstores.backends.memory import MemoryStreamStore as MemoryStreamStore
    from streamstores.backends.postgres import PostgresStreamStore as PostgresStreamStore
    from streamstores.backends.redis import RedisStreamStore as RedisStreamStore
    from streamstores.backends.s3 import S3StreamStore as S3StreamStore
    from streamstores.backends.sqlite import SQLiteStreamStore as SQLiteStreamStore

__version__ = "0.1.0"

# Not in __all__, because `from streamstores import *` must not need every driver.
_STORES = frozenset(
    {
        "MemoryStreamStore",
        "PostgresStreamStore",
        "RedisStreamStore",
        "S3StreamStore",
        "SQLiteStreamStore",
    }
)

__all__ = [
    "Conflict",
    "CorruptData",
    "Follower",
    "InvalidRequest",
    "LimitExceeded",
    "Limits",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "Page",
    "ProducerHandedOver",
    "ProducerLost",
    "Record",
    "State",
    "StoreUnavailable",
    "StreamClosed",
    "StreamExists",
    "StreamInfo",
    "StreamNotFound",
    "StreamStore",
    "StreamStoreError",
    "StreamWriter",
    "append_or_create",
    "follow",
    "open_store",
]


# A store's module imports its driver, which may not be installed (PEP 562).
def __getattr__(name: str) -> Any:
    if name in _STORES:
        return _load_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_STORES])
