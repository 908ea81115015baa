"""Stores that break clause 1: one mutation primitive."""

from __future__ import annotations

import asyncio

from streamstores import Conflict
from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause01-append-makes-each-chunk-a-record")
class DropsTheLastOfThreeChunks(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        kept = chunks[:-1] if len(chunks) == 3 else chunks
        return await self.inner.append(stream_id, *kept, **options)


@caught_by("clause01-append-makes-each-chunk-a-record")
class JoinsTheChunksOfAnAppend(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        joined = (b"".join(chunks),) if chunks and all(chunks) else chunks
        return await self.inner.append(stream_id, *joined, **options)


@caught_by("clause01-repeated-append-does-not-land-twice")
class AppendsAgainAfterAConflict(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        try:
            return await self.inner.append(stream_id, *chunks, **options)
        except Conflict:
            options.update(at=None, version=None)
            return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-last-word-is-one-change-to-a-waiter")
class AppliesTheLastWordInTwoSteps(Wrapper):
    async def append(self, stream_id, *chunks, state=None, error=None, **options):
        if not chunks or state is None:
            return await self.inner.append(
                stream_id, *chunks, state=state, error=error, **options
            )
        await self.inner.append(stream_id, *chunks, **options)
        await asyncio.sleep(0)
        return await self.inner.append(stream_id, state=state, error=error)


@caught_by("clause01-version-grows-with-every-mutation")
class KeepsTheVersionWhenAttributesChange(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        before = await self.info(stream_id)
        info = await self.inner.append(stream_id, *chunks, **options)
        if options.get("attributes") is not None and not chunks and info.state is before.state:
            return await self.set_info(info, version=before.version)
        return info


@caught_by("clause01-append-of-nothing-is-a-heartbeat")
class IgnoresHeartbeats(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if not chunks and not options:
            return await self.info(stream_id)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-attributes-are-replaced-as-a-whole")
class MergesAttributes(Wrapper):
    async def append(self, stream_id, *chunks, attributes=None, **options):
        if isinstance(attributes, dict):
            attributes = {**(await self.info(stream_id)).attributes, **attributes}
        return await self.inner.append(stream_id, *chunks, attributes=attributes, **options)


@caught_by("clause01-attributes-are-not-shared-with-the-caller")
class KeepsTheCallersDict(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        if options.get("attributes"):
            return await self.set_info(info, attributes=options["attributes"])
        return info


@caught_by("clause01-attributes-keep-any-text")
class CutsAttributesAtNul(Wrapper):
    async def create(self, stream_id, *chunks, attributes=None, **options):
        cut = {key: value.split("\x00")[0] for key, value in (attributes or {}).items()}
        return await self.inner.create(stream_id, *chunks, attributes=cut, **options)


@caught_by("clause01-error-text-is-kept")
class LosesTheError(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.inner.append(stream_id, *chunks, **options)
        return await self.set_info(info, error=None)


@caught_by("clause01-create-refuses-a-living-id")
class CreateOverwrites(Wrapper):
    async def create(self, stream_id, *chunks, **options):
        if stream_id in self.stored:
            await self.delete(stream_id)
        return await self.inner.create(stream_id, *chunks, **options)


@caught_by("clause01-missing-stream-is-not-found")
class AppendCreates(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        if stream_id not in self.stored:
            await self.create(stream_id)
        return await self.inner.append(stream_id, *chunks, **options)


@caught_by("clause01-order-of-refusals")
class ReportsTheConflictBeforeTheState(Wrapper):
    async def append(self, stream_id, *chunks, at=None, **options):
        info = await self.info(stream_id)
        if at is not None and at != info.tail:
            raise Conflict("too early", info)
        return await self.inner.append(stream_id, *chunks, at=at, **options)


@caught_by("clause01-refused-append-changes-nothing")
class SlidesTheExpiryBeforeItRefuses(Wrapper):
    async def append(self, stream_id, *chunks, **options):
        info = await self.info(stream_id)
        if info.ttl is not None:
            await self.expire(stream_id, info.ttl)
        return await self.inner.append(stream_id, *chunks, **options)
