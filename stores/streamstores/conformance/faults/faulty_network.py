"""A network before the server of a store that delays, loses, cuts and silences, by a seed."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress

from streamstores._time_limits import in_time
from streamstores.conformance.faults.fault_schedule import Draw, Fault, FaultSchedule
from streamstores.conformance.faults.proxy import BURST_BYTES, Proxy
from streamstores.conformance.faults.store_address import address_of, with_address

__all__ = ["FaultyNetwork"]

SPOILT_SHARE = 0.08
SLOW_PIECES = 40
"""A slow answer comes in this many small pieces, and then the rest at once."""
SLOW_PAUSE_SECONDS = 0.002
_LINGER_NOT = struct.pack("ii", 1, 0)

_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FaultyNetwork(Proxy):
    """A proxy to the server of a store URL; a context manager.

    `url` is the store's URL through the network. It is a good network until `spoil(seed)`.

    `share` is the part of all bursts that meet a fault: from 0 to 1. A burst is what a client
    sends at once. Raises `ValueError` if the URL names no server, or several.
    """

    def __init__(self, url: str, *, share: float = SPOILT_SHARE) -> None:
        host, port = address_of(url)
        super().__init__(port, target_host=host)
        self._url = url
        self._share = share
        self._seed: int | None = None
        self._links: list[_Link] = []
        self._numbers = itertools.count()
        self._is_calm = asyncio.Event()
        self._is_calm.set()
        self.counts: Counter[Fault] = Counter()
        """How often each fault has happened."""

    @property
    def url(self) -> str:
        """The store URL with the address of this network in place of the server's."""
        return with_address(self._url, "127.0.0.1", self.port)

    @contextmanager
    def spoil(self, seed: int) -> Generator[None, None, None]:
        """Spoil what passes while the block runs. Afterwards the network is good again, and
        what was late or silent arrives at once.

        Each connection meets the faults that the seed and its number decide, in this order, so
        a seed repeats them. Connections are counted from those that exist at the beginning.
        Which call meets which fault also depends on how the calls race.
        """
        self._run(self._begin(seed))
        try:
            yield
        finally:
            self._run(self._end())

    async def _begin(self, seed: int) -> None:
        self._seed = seed
        self._numbers = itertools.count()
        self._is_calm.clear()
        for link in self._links:
            link.schedule = self._next_schedule()

    async def _end(self) -> None:
        self._seed = None
        self._is_calm.set()
        for link in self._links:
            link.schedule = None

    def _next_schedule(self) -> FaultSchedule | None:
        if self._seed is None:
            return None
        return FaultSchedule(self._seed, next(self._numbers), self._share)

    async def _carry(self, near: _End, far: _End) -> None:
        link = _Link(near, far, self._is_calm, self.counts)
        link.schedule = self._next_schedule()
        self._links.append(link)
        try:
            await asyncio.gather(link.carry_requests(), link.carry_answers())
        finally:
            self._links.remove(link)


class _Link:
    """One connection: its two ends, and the fault that its answers meet at the moment."""

    def __init__(
        self, near: _End, far: _End, is_calm: asyncio.Event, counts: Counter[Fault]
    ) -> None:
        self._near_reader, self._near = near
        self._far_reader, self._far = far
        self._is_calm = is_calm
        self._counts = counts
        self._answer_draw: Draw | None = None
        self._voice = asyncio.Event()
        """Cleared while the connection is silent."""
        self._voice.set()
        self.schedule: FaultSchedule | None = None

    async def carry_requests(self) -> None:
        with suppress(OSError):
            while data := await self._near_reader.read(BURST_BYTES):
                draw = self.schedule.next() if self.schedule is not None else None
                if draw is not None:
                    self._counts[draw.fault] += 1
                if not await self._send(data, draw):
                    return
        self._far.close()

    async def carry_answers(self) -> None:
        with suppress(OSError):
            while data := await self._far_reader.read(BURST_BYTES):
                await self._voice.wait()
                draw, self._answer_draw = self._answer_draw, None
                if not await self._deliver(data, draw):
                    return
        await self._voice.wait()
        self._near.close()

    async def _send(self, data: bytes, draw: Draw | None) -> bool:
        """Pass a burst on to the server; False if the connection has ended by that."""
        if draw is None:
            return await self._forward(data)
        if draw.fault is Fault.LOST_REQUEST:
            return self._cut(draw)
        if draw.fault is Fault.CUT_REQUEST:
            await self._forward(data[: min(draw.cut_after_bytes, len(data) - 1)])
            return self._cut(draw)
        if draw.fault is Fault.LATE_REQUEST:
            return await self._send_late(data, draw)
        if draw.fault is Fault.SILENCE:
            self._voice.clear()
        await self._pause(draw.seconds)
        self._voice.set()
        self._answer_draw = draw
        return await self._forward(data)

    async def _forward(self, data: bytes) -> bool:
        self._far.write(data)
        await self._far.drain()
        return True

    async def _send_late(self, data: bytes, draw: Draw) -> bool:
        _end(self._near, draw)
        await self._pause(draw.seconds)
        await self._forward(data)
        self._far.close()  # in order, so that the bytes arrive
        return False

    async def _deliver(self, data: bytes, draw: Draw | None) -> bool:
        """Pass an answer on to the client; False if the connection has ended by that."""
        fault = draw.fault if draw is not None else None
        if draw is not None and fault is Fault.LOST_ANSWER:
            return self._cut(draw)
        if draw is not None and fault is Fault.CUT_ANSWER:
            await self._answer(data[: min(draw.cut_after_bytes, len(data) - 1)])
            return self._cut(draw)
        if draw is not None and fault is Fault.SLOW_ANSWER:
            data = await self._drip(data, draw.piece_bytes)
        await self._answer(data)
        if draw is not None and fault is Fault.CUT_AFTER_ANSWER:
            return self._cut(draw)
        return True

    async def _drip(self, data: bytes, piece_bytes: int) -> bytes:
        """Deliver the beginning in small pieces; what is left of the answer."""
        for _ in range(SLOW_PIECES):
            if not data:
                break
            await self._answer(data[:piece_bytes])
            data = data[piece_bytes:]
            await self._pause(SLOW_PAUSE_SECONDS)
        return data

    async def _answer(self, data: bytes) -> None:
        self._near.write(data)
        await self._near.drain()

    def _cut(self, draw: Draw) -> bool:
        _end(self._near, draw)
        _end(self._far, draw)
        return False

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than the network is spoilt."""
        if seconds:
            with suppress(asyncio.TimeoutError):
                await in_time(self._is_calm.wait(), seconds)


def _end(writer: asyncio.StreamWriter, draw: Draw) -> None:
    """End a side of the connection, by a reset or in order."""
    if not draw.is_reset:
        writer.close()
        return
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.transport.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
