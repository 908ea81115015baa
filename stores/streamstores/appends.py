"""Appends to a stream that may not exist yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from streamstores.errors import StoreUnavailable, StreamExists, StreamNotFound
from streamstores.store import StreamStore
from streamstores.values import StreamInfo

__all__ = ["append_or_create"]

_ATTEMPTS = 20


async def append_or_create(
    store: StreamStore,
    stream_id: str,
    *chunks: bytes,
    ttl: float | None = None,
    expires_at: datetime | None = None,
    attributes: Mapping[str, str] | None = None,
) -> StreamInfo:
    """Append the chunks to the stream, or create it with them if there is none.

    `ttl`, `expires_at` and `attributes` are those of a new stream; a stream that exists keeps
    its own. Returns the info right after the append or the creation.

    Atomic on every store: the chunks are added by exactly one `append` or `create`. If callers
    race for a new id, the first creates the stream and the others append to it.

    Costs one call if the stream exists, two if it does not, and more only if it is created or
    ends in between. Raises what `append` and `create` raise, but neither `StreamNotFound` nor
    `StreamExists`: `StreamClosed` if the stream exists and is not streaming;
    `StoreUnavailable`, and nothing was applied, if it came and went at every attempt.
    """
    for _ in range(_ATTEMPTS):
        # The append first: a stream that many producers share is created only once. No error
        # but these two leads to another attempt, so what may have been applied is never
        # repeated.
        try:
            return await store.append(stream_id, *chunks)
        except StreamNotFound:
            pass
        try:
            return await store.create(
                stream_id, *chunks, ttl=ttl, expires_at=expires_at, attributes=attributes
            )
        except StreamExists:
            pass
    raise StoreUnavailable(f"stream {stream_id!r} came and went {_ATTEMPTS} times")
