"""Every exception of streamstores, by what the caller has to do about it.

    StreamStoreError
    ├── InvalidRequest (ValueError)   fix the call; nothing happened
    │   ├── LimitExceeded             a bound of the store's `Limits`: .limit, .value
    │   └── OffsetOutOfRange          a read beyond the end: .tail
    ├── StreamNotFound                never existed, was deleted, or expired
    ├── StreamExists                  `create` of an id that is in use: .info
    ├── StreamClosed                  the stream is not streaming: .info
    ├── Conflict                      `at` or `version` does not match: .info
    ├── ProducerLost                  no sign of life from the producer: .info, .silent_seconds
    │   └── ProducerHandedOver        it has given the stream up, and said so
    ├── StoreUnavailable              nothing was applied: retry freely
    ├── OutcomeUnknown                perhaps applied: read before retrying
    └── CorruptData                   stop: what is stored is not what was written

No exception of a driver leaks out of a store; it is chained as `__cause__`.
"""

from __future__ import annotations

from streamstores.values import StreamInfo

__all__ = [
    "Conflict",
    "CorruptData",
    "InvalidRequest",
    "LimitExceeded",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "ProducerHandedOver",
    "ProducerLost",
    "StoreUnavailable",
    "StreamClosed",
    "StreamExists",
    "StreamNotFound",
    "StreamStoreError",
]


class StreamStoreError(Exception):
    """The base class of everything that a store, a follower or a writer raises."""


class InvalidRequest(StreamStoreError, ValueError):
    """The call itself is wrong and nothing happened: fix it; a retry will not help."""


class LimitExceeded(InvalidRequest):
    """A value is over a bound of the store's `Limits`; nothing happened.

    `limit` is the bound and `value` what was given, in the unit that the message names.
    """

    def __init__(self, message: str, *, limit: int, value: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value


class OffsetOutOfRange(InvalidRequest):
    """A read began beyond the end of the stream, which is `tail`."""

    def __init__(self, stream_id: str, offset: int, *, tail: int) -> None:
        super().__init__(f"offset {offset} is beyond the tail {tail} of stream {stream_id!r}")
        self.stream_id = stream_id
        self.offset = offset
        self.tail = tail


class StreamNotFound(StreamStoreError):
    """There is no such stream now: it never existed, was deleted, or has expired."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"no stream {stream_id!r}")
        self.stream_id = stream_id


class _RefusedByState(StreamStoreError):
    """Refused because of what the stream is, which `info` tells. Nothing happened."""

    def __init__(self, message: str, info: StreamInfo) -> None:
        super().__init__(message)
        self.info = info


class StreamExists(_RefusedByState):
    """A stream has this id already; `info` describes it."""


class StreamClosed(_RefusedByState):
    """The stream is not streaming, so the append was refused; `info` tells its state."""


class Conflict(_RefusedByState):
    """`at` or `version` does not match: another writer was first; `info` is its result."""


class ProducerLost(StreamStoreError):
    """A follower saw no change for `silent_seconds`: it takes the producer for dead.

    Nothing is lost: `info` is the stream as last seen. It can be followed again, or taken
    over with `append(…, version=info.version)`, which only one candidate can win.
    """

    def __init__(self, info: StreamInfo, silent_seconds: float) -> None:
        super().__init__(
            f"the producer of stream {info.id!r} gave no sign of life for "
            f"{silent_seconds:.1f} seconds"
        )
        self.info = info
        self.silent_seconds = silent_seconds


class ProducerHandedOver(ProducerLost):
    """The producer has given the stream up, and said so in its attributes.

    A follower raises it as soon as the `is_lost` function that it was given returns True,
    without waiting out its `producer_timeout`, so `silent_seconds` is 0. The caller does
    the same about it as about `ProducerLost`.
    """

    def __init__(self, info: StreamInfo) -> None:
        super().__init__(info, 0.0)
        self.args: tuple[object, ...] = (
            f"the producer of stream {info.id!r} has handed it over",
        )


class StoreUnavailable(StreamStoreError):
    """The backend cannot be used now, and nothing was applied: retry freely."""


class OutcomeUnknown(StreamStoreError):
    """The backend went away during the call and may have applied it: read before retrying.

    It may even apply it after that read: `StreamStore.append` says how to settle it.
    """


class CorruptData(StreamStoreError):
    """What is stored is not what a store wrote: stop, and examine the backend."""
