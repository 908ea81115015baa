"""Leaving other writers of a stream an opening, now and then."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

_IN_A_ROW = 60
_PAUSE_WRITES = 6.0
_SHORTEST_PAUSE_SECONDS = 0.06
_STREAMS = 10_000


@dataclass
class _Pace:
    """The last write of this process to a stream."""

    ended_at: float
    seconds: float
    in_a_row: int


class WriterCourtesy:
    """Pauses a process that writes a stream without a gap.

    It knows its own last segment, while every other writer has to look for that and read it
    before it can write the next, and so is always too late: a Stop from elsewhere would wait
    for as long as the writer runs. Once in 60 writes it waits as long as six of them take, at
    least 60 ms: twice what the three requests of the other take. Only a gap as long as that
    makes up for it.
    """

    def __init__(self) -> None:
        self._paces: OrderedDict[str, _Pace] = OrderedDict()

    async def wait(self, stream_id: str) -> None:
        """Before a write: wait, if it is time to."""
        pace = self._paces.get(stream_id)
        if pace is None:
            return
        opening = max(_PAUSE_WRITES * pace.seconds, _SHORTEST_PAUSE_SECONDS)
        if time.monotonic() - pace.ended_at >= opening:
            pace.in_a_row = 0
        elif pace.in_a_row >= _IN_A_ROW:
            pace.in_a_row = 0
            await asyncio.sleep(opening)

    def wrote(self, stream_id: str, begun_at: float) -> None:
        """A write that began at this monotonic time has succeeded."""
        now = time.monotonic()
        before = self._paces.pop(stream_id, None)
        in_a_row = 1 if before is None else before.in_a_row + 1
        self._paces[stream_id] = _Pace(now, now - begun_at, in_a_row)
        if len(self._paces) > _STREAMS:
            self._paces.popitem(last=False)
