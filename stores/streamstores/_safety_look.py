"""The safety look: one question for all followed streams of a store, not one for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
    """Asks a store every `seconds`, and when notices may have been lost, which of the followed
    streams differ from what their subscribers know, and rings those.

    A subscriber that knows no info is left out: it has not read yet, or it waits for a stream
    to be created. If a look fails every subscriber is rung within an interval, so that its own
    question raises the error. One loop, as its `Changes`.
    """

    def __init__(
        self, subscriptions: Mapping[str, Sequence[Looker]], look: Look, seconds: float
    ) -> None:
        self._subscriptions = subscriptions
        self._look = look
        self._seconds = seconds
        # In the order in which they came, because a set would have none.
        self._to_ask_about: dict[str, None] = {}
        self._to_ring: dict[str, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ringing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look in `seconds`, and so on, until `stop`; at the first subscription."""
        self._enter_loop()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._begin)

    def stop(self) -> None:
        """At the end of the last subscription. A question that is out ends by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._to_ask_about.clear()
        self._to_ring.clear()
        if self._ringing is not None:
            self._ringing.cancel()
            self._ringing = None

    def look_soon(self, stream_ids: Iterable[str]) -> None:
        """Ask about these streams too, as soon as the question that is out has its answer."""
        self._enter_loop()
        self._to_ask_about.update(dict.fromkeys(stream_ids))
        if self._looking is None and self._to_ask_about:
            looking = asyncio.create_task(self._ask(), name="streamstores: safety look")
            looking.add_done_callback(self._looked)
            self._looking = looking

    def _enter_loop(self) -> None:
        """Forget a loop that was closed: its timer and its tasks would stand for ours."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._timer = self._looking = self._ringing = None

    def _begin(self) -> None:
        self._timer = None
        self.start()
        # A look that takes longer than the interval is not joined by another.
        if self._looking is None:
            self.look_soon(self._subscriptions)

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled():
            # What came after the task's last turn, and before this call, is still to be asked.
            self.look_soon(())
            looking.result()

    async def _ask(self) -> None:
        """Ask about everything that is due, and note what could not be asked about."""
        while stream_ids := list(islice(self._to_ask_about, STREAMS_AT_ONCE)):
            for each in stream_ids:
                del self._to_ask_about[each]
            try:
                await self._look_at(stream_ids)
            except StreamStoreError:
                self._to_ring.update(dict.fromkeys([*stream_ids, *self._to_ask_about]))
                self._to_ask_about.clear()
                if self._ringing is None or self._ringing.done():
                    self._ringing = asyncio.create_task(self._ring())
            else:
                for each in stream_ids:
                    self._to_ring.pop(each, None)

    async def _ring(self) -> None:
        """Ring the subscribers of streams that could not be asked about; a crowd of them
        little by little."""
        # The questions of a crowd at once would make the next look wait for its turn until it
        # fails too, and a backend that was slow for a moment would never get out of that.
        count = max(RUNG_AT_ONCE, len(self._to_ring) // _RINGS_PER_INTERVAL)
        while stream_ids := list(islice(self._to_ring, count)):
            for stream_id in stream_ids:
                del self._to_ring[stream_id]
                for subscription in self._subscriptions.get(stream_id, ()):
                    subscription.ring()
            if self._to_ring:
                await asyncio.sleep(self._seconds / _RINGS_PER_INTERVAL)

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
