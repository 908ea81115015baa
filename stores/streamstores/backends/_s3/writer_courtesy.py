"""Leaving other writers of a stream an opening, now and then."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

_IN_A_ROW = 80
_PAUSE_WRITES = 8.0
_SHORTEST_PAUSE_SECONDS = 0.08
_STREAMS = 10_000


@dataclass
class _Pace:
    """The last write of this process to a stream."""

    ended_at: float
    seconds: float
    in_a_row: int


class WriterCourtesy:
    """Pauses a process that writes a stream without a gap.

    It knows its own last segment, while every other writer has to read that before it can
    write the next, and so is always too late: a Stop from elsewhere would wait for as long as
    the writer runs. Once in 32 writes in a row it waits as long as three of them take, at
    least 30 ms, which is time to read and to write. Writers that gather (`linger`) leave gaps
    anyway.
    """

    def __init__(self) -> None:
        self._paces: OrderedDict[str, _Pace] = OrderedDict()

    async def wait(self, stream_id: str) -> None:
        """Before a write: wait, if it is time to."""
        pace = self._paces.get(stream_id)
        if pace is None:
            return
        if time.monotonic() - pace.ended_at >= pace.seconds:
            pace.in_a_row = 0
        elif pace.in_a_row >= _IN_A_ROW:
            pace.in_a_row = 0
            await asyncio.sleep(max(_PAUSE_WRITES * pace.seconds, _SHORTEST_PAUSE_SECONDS))

    def wrote(self, stream_id: str, begun_at: float) -> None:
        """A write that began at this monotonic time has succeeded."""
        now = time.monotonic()
        before = self._paces.pop(stream_id, None)
        in_a_row = 1 if before is None else before.in_a_row + 1
        self._paces[stream_id] = _Pace(now, now - begun_at, in_a_row)
        if len(self._paces) > _STREAMS:
            self._paces.popitem(last=False)
