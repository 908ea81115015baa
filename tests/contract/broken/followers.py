"""Stores that break clause 5: following."""

from __future__ import annotations

from streamstores import Page, State, StreamNotFound
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause05-a-vanished-stream-never-looks-finished")
class ShowsDeletedStreamsAsDone(Wrapper):
    def __init__(self):
        super().__init__()
        self.seen = {}

    async def read(self, stream_id, offset=0, **options):
        try:
            page = await self.inner.read(stream_id, offset, **options)
        except StreamNotFound:
            if stream_id not in self.seen:
                raise
            info = self.seen[stream_id]
            return Page([], offset, info._replace(state=State.DONE, version=info.version + 1))
        self.seen[stream_id] = page.info
        return page

    async def wait(self, stream_id, *, version, timeout):
        try:
            return await self.inner.wait(stream_id, version=version, timeout=timeout)
        except StreamNotFound:
            return (await self.read(stream_id)).info


@caught_by("clause05-heartbeats-prove-life")
class HidesHeartbeats(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        is_heartbeat = not chunks and not options
        return await self.set_info(info, version=before.version) if is_heartbeat else info
