"""Stores that break clause 1: `updated_at`."""

from __future__ import annotations

from datetime import datetime, timezone

from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


def now() -> datetime:
    return datetime.now(timezone.utc)


@caught_by("clause01-every-mutation-sets-updated-at")
class HeartbeatsDoNotUpdate(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        is_heartbeat = not chunks and not options
        if is_heartbeat:
            info = await self.set_info(info, updated_at=before.updated_at)
        return info


@caught_by("clause01-only-mutations-set-updated-at")
class ExpireUpdates(Wrapper):
    async def expire(self, stream_id, ttl=None, **options):
        info = await self.inner.expire(stream_id, ttl, **options)
        return await self.set_info(info, updated_at=now())


@caught_by("clause01-list-tells-which-streams-are-stuck")
class ListsStreamsAsJustUpdated(Wrapper):
    async def list(self, prefix=""):
        async for info in self.inner.list(prefix):
            yield info._replace(updated_at=now())


@caught_by("clause01-times-are-in-utc")
class TellsLocalTime(Wrapper):
    async def create(self, stream_id, *chunks, **options):
        info = await self.inner.create(stream_id, *chunks, **options)
        return info._replace(updated_at=info.updated_at.replace(tzinfo=None))
