"""Stores that break clause 4: waiting."""

from __future__ import annotations

import asyncio

from streamstores import StreamNotFound
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Polls, Wrapper


@caught_by("clause04-wakes-on-append")
class ForgetsToWake(Polls):
    pause = 1000.0


@caught_by("clause04-wakes-on-append")
class WakesOnlyAtThePoll(Polls):
    pause = 5.0


@caught_by("clause04-wakes-on-attributes")
class IgnoresChangesOfAttributes(Polls):
    def has_changed(self, before, now):
        return (now.tail, now.state) != (before.tail, before.state)


@caught_by("clause04-wakes-on-change-of-state")
class IgnoresChangesOfState(Polls):
    def has_changed(self, before, now):
        return (now.tail, now.attributes) != (before.tail, before.attributes)


@caught_by("clause04-no-change-is-slept-through")
class SubscribesTooLate(Wrapper):
    async def wait(self, stream_id, *, version, timeout):
        info = await self.inner.wait(stream_id, version=version, timeout=0)
        if info.version != version or timeout == 0:
            return info
        await asyncio.sleep(0)  # what happens here is missed
        now = await self.info(stream_id)
        return await self.inner.wait(stream_id, version=now.version, timeout=timeout)


@caught_by("clause04-wait-raises-when-the-stream-is-deleted")
class WaitsForDeletedStreams(Polls):
    async def wait(self, stream_id, *, version, timeout):
        before = await self.info(stream_id)
        try:
            return await super().wait(stream_id, version=version, timeout=timeout)
        except StreamNotFound:
            return before


@caught_by("clause04-returns-the-info-at-timeout")
class RaisesAtTheTimeout(Wrapper):
    async def wait(self, stream_id, *, version, timeout):
        info = await self.inner.wait(stream_id, version=version, timeout=timeout)
        if info.version == version:
            raise asyncio.TimeoutError
        return info
