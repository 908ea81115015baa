"""When streams expire, and reads that postpone it.

A stream keeps the expiry it was created with in its attributes too. `expire` takes no version,
so it can hit a namesake that was created in the meantime. The returned info shows that, and
then the namesake gets its own expiry back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from streamstores.errors import StreamStoreError
from streamstores.store import StreamInfo, StreamStore

__all__ = ["Expiry", "kept_alive", "touch"]

_ATTRIBUTE = "expiry"
_SAME_MOMENT = timedelta(milliseconds=2)  # stores keep a time to the millisecond at least


class Expiry(NamedTuple):
    """When a stream expires: `ttl` seconds after its last use, or `at` a time, or never."""

    ttl: float | None = None
    at: datetime | None = None

    @classmethod
    def asked_of(cls, info: StreamInfo) -> Expiry:
        """The expiry that the stream was created with. For streams that another writer created,
        the current one."""
        kind, _, value = info.attributes.get(_ATTRIBUTE, "").partition(" ")
        if kind == "never":
            return cls()
        if kind == "ttl":
            return cls(ttl=float(value))
        if kind == "at":
            return cls(at=datetime.fromisoformat(value))
        return cls.of(info)

    @classmethod
    def of(cls, info: StreamInfo) -> Expiry:
        return cls(info.ttl, None if info.ttl is not None else info.expires_at)

    def attributes(self) -> Mapping[str, str]:
        """The attribute that records this expiry."""
        if self.ttl is not None:
            return {_ATTRIBUTE: f"ttl {self.ttl}"}
        return {_ATTRIBUTE: "never" if self.at is None else f"at {self.at.isoformat()}"}

    def equals(self, other: Expiry) -> bool:
        if self.at is None or other.at is None:
            return self == other
        return abs(self.at - other.at) <= _SAME_MOMENT


async def touch(store: StreamStore, info: StreamInfo) -> None:
    """Restart the ttl, if the stream has one. Costs one store call then, else none."""
    if info.ttl is None:
        return
    touched = await store.expire(info.id, info.ttl)
    # A namesake has been hit (clause 11 of the contract), and must not live longer for it.
    if touched.created_at != info.created_at:
        await set_expiry(store, touched.id, Expiry.asked_of(touched))


async def set_expiry(store: StreamStore, stream_id: str, expiry: Expiry) -> StreamInfo:
    return await store.expire(stream_id, expiry.ttl, expires_at=expiry.at)


@asynccontextmanager
async def kept_alive(
    store: StreamStore, info: StreamInfo, seconds: float
) -> AsyncGenerator[None, None]:
    """Keep a stream with a short ttl from expiring during a live read of `seconds`."""
    # A longer ttl cannot end during the read, since the read itself has restarted it.
    if info.ttl is None or info.ttl > 2 * seconds:
        yield
        return
    task = asyncio.ensure_future(_keep_alive(store, info, info.ttl / 3))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _keep_alive(store: StreamStore, info: StreamInfo, interval: float) -> None:
    with suppress(StreamStoreError):
        while True:
            await asyncio.sleep(interval)
            await touch(store, info)
