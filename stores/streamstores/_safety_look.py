"""The safety look: one question for all followed streams of a store, not one for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from streamstores import observation
from streamstores.errors import StreamStoreError
from streamstores.values import StreamInfo

Look = Callable[[Mapping[str, int]], Awaitable[Mapping[str, int | None]]]

STREAMS_AT_ONCE = 2_000
"""How many streams one question is about at most, so that none takes long at the backend."""

RUNG_AT_ONCE = 200
"""How many subscribers ask for themselves at once when a look has failed."""
_RINGS_PER_INTERVAL = 25

UNKNOWN_VERSION = -1  # no stream has it, so such a stream is always reported


class Looker(Protocol):
    """A subscriber on whose behalf the look is made."""

    info: StreamInfo | None

    def ring(self) -> None: ...


class SafetyLook:
    """Asks a store every `seconds` which of the followed streams differ from what their
    subscribers know, and rings those.

    A subscriber that knows no info is left out: it has not read yet, or it waits for a stream
    to be created. If looks fail every subscriber is rung within an interval, so that its own
    question raises the error. One loop, as its `Changes`.
    """

    def __init__(
        self, subscriptions: Mapping[str, Sequence[Looker]], look: Look, seconds: float
    ) -> None:
        self._subscriptions = subscriptions
        self._look = look
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ringing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look in `seconds`, and so on, until `stop`; at the first subscription."""
        loop = asyncio.get_running_loop()
        if (
            self._loop is not loop
        ):  # or the timer of a loop that was closed would stand for ours
            self._loop = loop
            self._timer = self._looking = self._ringing = None
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._begin)

    def stop(self) -> None:
        """At the end of the last subscription. A look that has begun ends by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_ringing()

    def _begin(self) -> None:
        self._timer = None
        self.start()
        # A look that takes longer than the interval is not joined by another.
        if self._looking is None and self._loop is not None:
            looking = self._loop.create_task(self.look(), name="streamstores: safety look")
            looking.add_done_callback(self._looked)
            self._looking = looking

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled():
            looking.result()

    async def look(self) -> None:
        """Ask about all streams that are followed now."""
        streams = iter(list(self._subscriptions))
        while slice_ := list(islice(streams, STREAMS_AT_ONCE)):
            try:
                await self._look_at(slice_)
            except StreamStoreError:
                if self._ringing is None or self._ringing.done():
                    self._ringing = asyncio.create_task(self._ring_all())
                return
        self._stop_ringing()

    async def _ring_all(self) -> None:
        """Ring every subscriber, and take an interval for a crowd."""
        # The questions of a crowd at once would make the next look wait for its turn until it
        # fails too, and a backend that was slow for a moment would never get out of that.
        stream_ids = list(self._subscriptions)
        count = max(RUNG_AT_ONCE, len(stream_ids) // _RINGS_PER_INTERVAL)
        for start in range(0, len(stream_ids), count):
            if start:
                await asyncio.sleep(self._seconds / _RINGS_PER_INTERVAL)
            for stream_id in stream_ids[start : start + count]:
                for subscription in self._subscriptions.get(stream_id, ()):
                    subscription.ring()

    def _stop_ringing(self) -> None:
        if self._ringing is not None:
            self._ringing.cancel()
            self._ringing = None

    async def _look_at(self, stream_ids: Sequence[str]) -> None:
        """Ask about these streams, and ring the subscribers for whom the answer is news."""
        known = {each: self._known_versions(each) for each in stream_ids}
        asked = {
            stream_id: next(iter(versions)) if len(versions) == 1 else UNKNOWN_VERSION
            for stream_id, versions in known.items()
            if versions
        }
        if not asked:
            return
        has_found = False
        for stream_id, version in (await self._look(asked)).items():
            for subscription in self._subscriptions.get(stream_id, ()):
                info = subscription.info
                # If a change was heard of while the question was out, only a still newer
                # version is news. Otherwise a lower one is that of a namesake.
                if info is not None and (
                    (version is not None and version > info.version)
                    or (version != info.version and info.version in known[stream_id])
                ):
                    subscription.ring()
                    has_found = True
        if observation.observer is not None:
            observation.observer.polled(has_found=has_found)

    def _known_versions(self, stream_id: str) -> set[int]:
        return {
            subscription.info.version
            for subscription in self._subscriptions.get(stream_id, ())
            if subscription.info is not None
        }
