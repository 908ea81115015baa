"""Stores that break clause 6: states."""

from __future__ import annotations

import asyncio

from streamstores import State, StreamClosed
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause06-a-stopped-stream-stays-stopped")
class ReopensStoppedStreamsByAccident(Wrapper):
    async def append(self, stream_id, *chunks, state=None, **options):
        if (await self.info(stream_id)).state is State.STOPPED and state is None:
            state = State.STREAMING
        return await self.inner.append(stream_id, *chunks, state=state, **options)


@caught_by("clause06-stop-racing-append")
class WritesBackTheStateItRead(Wrapper):
    async def append(self, stream_id, *chunks, state=None, **options):
        before = await self.info(stream_id)
        if before.state is not State.STREAMING or not chunks:
            return await self.inner.append(stream_id, *chunks, state=state, **options)
        await asyncio.sleep(0)
        await self.set_info(before, state=before.state)
        return await self.inner.append(stream_id, *chunks, state=state, **options)


@caught_by("clause06-repeating-a-stop-or-final-state-is-a-no-op")
class GrowsTheVersionAtARepeatedState(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        if info.version == before.version:
            return await self.set_info(info, version=info.version + 1)
        return info


@caught_by("clause06-repeating-a-stop-or-final-state-is-a-no-op")
class RefusesARepeatedState(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        if before.state is not State.STREAMING and options.get("state") == before.state:
            raise StreamClosed("already", before)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause06-reopening-needs-the-right-version")
class ReopensWithAnyVersion(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if options.get("state") == "streaming":
            options.pop("version", None)
        return await self.inner.append(stream_id, *chunks, **options)
