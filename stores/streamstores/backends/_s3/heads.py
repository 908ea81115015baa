"""The head of a stream: what names it, and once it is finished, what tells its state."""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block, Layout
from streamstores.backends._s3.calendar import Calendar
from streamstores.backends._s3.keys import Keys
from streamstores.backends._s3.streams import Known, Moved, Streams
from streamstores.backends._s3.transport import FOUND, MISSING, REFUSED, WRITTEN, Bucket
from streamstores.errors import OutcomeUnknown, StoreUnavailable
from streamstores.store import StreamInfo

_SAME_END_SECONDS = 0.5  # an `expire` that moves the end by less writes nothing


class Expire(NamedTuple):
    """A checked request to `expire`."""

    ttl: float | None
    expires_at: datetime | None


class Heads:
    """Changes of heads, each under the condition that it is still the one that was read."""

    def __init__(
        self, streams: Streams, bucket: Bucket, keys: Keys, calendar: Calendar
    ) -> None:
        self._streams = streams
        self._bucket = bucket
        self._keys = keys
        self._calendar = calendar
        self._writer = secrets.token_hex(8)
        self._writes = 0

    def nonce(self) -> str:
        """A name for one PUT."""
        self._writes += 1
        return f"{self._writer}-{self._writes}"

    async def remove(self, known: Known) -> bool:
        """Free the id, where the head is still `known`'s; what the stream leaves behind is
        noted in the calendar. False: somebody else did it."""
        key = self._keys.head(known.info.id)
        with suppress(StoreUnavailable, OutcomeUnknown):
            await self._calendar.note_rest(known.generation)
        if self._bucket.removes_conditionally:
            answer = await self._bucket.delete(key, match=known.etag)
            if answer.in_doubt and answer.status == REFUSED:
                raise OutcomeUnknown(f"the end of stream {known.info.id!r} got no answer")
            return answer.status == WRITTEN or (answer.status == MISSING and answer.in_doubt)
        head = Block(blocks.VACANT, known.info.id, "", 0, 0, self.nonce())
        return await self.put(head, match=known.etag) is not None

    async def put(
        self, head: Block, *, match: str | None = None, absent: bool = False
    ) -> tuple[str, float] | None:
        """ETag and S3's time where the head was written; None where another was first.

        Raises `OutcomeUnknown` where it may have been, and another has replaced it.
        """
        key = self._keys.head(head.stream_id)
        body = blocks.encode(head)
        answer = await self._bucket.put(key, body, match=match, absent=absent)
        if answer.status == WRITTEN:
            return answer.etag, answer.date
        if not answer.in_doubt:
            return None
        found = await self._bucket.get(key)
        if found.status == FOUND and blocks.decode(found.body, key).nonce == head.nonce:
            return found.etag, found.date
        raise OutcomeUnknown(f"the write to stream {head.stream_id!r} got no answer")

    async def expire(self, known: Known, request: Expire) -> StreamInfo:
        while True:
            info = expiring(known.info, request, self._bucket.clock.now())
            if info is known.info:
                return info
            due = await self._calendar.note_end(info, known.due)
            new = await self.seal(known, info, due, known.layout)
            if new is not None:
                return new.info
            known = await self._streams.living(info.id)

    async def seal(
        self, known: Known, info: StreamInfo, due: int | None, layout: Layout | None
    ) -> Known | None:
        """Make the head of a finished stream tell its info; None where it has changed."""
        try:
            first = await self._streams.fetch(known, 0)
        except Moved:
            return None
        head = first._replace(
            kind=blocks.SEALED,
            nonce=self.nonce(),
            info=info,
            due=due,
            layout=layout or Layout(known.number),
            written_at=self._streams.seconds(),
        )
        return await self.replace(known, head)

    async def replace(self, known: Known, head: Block) -> Known | None:
        written = await self.put(head, match=known.etag)
        if written is None:
            return None
        assert head.info is not None
        assert head.layout is not None
        etag, date = written
        self._streams.cache.put(head)
        return self._streams.learn(
            known._replace(
                info=head.info,
                head=head.kind,
                etag=etag,
                nonce=head.nonce,
                number=head.layout.number,
                due=head.due,
                layout=head.layout,
                proved_at=date,
            )
        )

    async def delete(self, known: Known) -> None:
        stream_id = known.info.id
        while not await self.remove(known):
            known = await self._streams.living(stream_id)
        self._streams.forget(stream_id)
        if known.layout is not None and known.layout.key is not None:
            with suppress(StoreUnavailable, OutcomeUnknown):
                await self._bucket.delete(known.layout.key)


def expiring(info: StreamInfo, request: Expire, now: datetime) -> StreamInfo:
    """The info after `expire`; the same object where nothing needs to be written."""
    end = request.expires_at
    if request.ttl is not None:
        end = now + timedelta(seconds=request.ttl)
    if request.ttl == info.ttl and _is_same(end, info.expires_at, request.ttl):
        return info
    return info._replace(ttl=request.ttl, expires_at=end)


def _is_same(end: datetime | None, before: datetime | None, ttl: float | None) -> bool:
    if end is None or before is None or ttl is None:
        return end == before
    slack = min(_SAME_END_SECONDS, ttl / 10)
    return math.fabs((end - before).total_seconds()) < slack
