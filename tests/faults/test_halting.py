"""A Stop, and a takeover, reach the process that has the model."""

from __future__ import annotations

import signal
import statistics
import time
from pathlib import Path

import httpx

from streamstores.client import Status, Stream
from tests.faults.app import pieces_of
from tests.faults.workers import fleet_of
from tests.services import PATIENCE

STOPS = 5


async def test_a_stop_elsewhere_halts_a_silent_model(store_url: str, tmp_path: Path) -> None:
    """The model notes that it was halted."""
    delays = []
    async with (
        fleet_of(2, store_url, tmp_path, pause_for=0) as fleet,
        httpx.AsyncClient(timeout=PATIENCE) as client,
    ):
        here, elsewhere = fleet.workers
        for number in range(STOPS):
            stream_id = f"silent {number}"
            async with Stream(f"{here.url}/stream") as stream:
                await stream.send(str(number), model="silent", stream_id=stream_id)
                while len(stream.text.split()) < number:
                    await anext(stream)
                await fleet.noted(stream_id, "called", lambda note: note.pid == here.pid)
                began_at = time.monotonic()
                stop = {"id": stream_id}
                answer = await client.post(f"{elsewhere.url}/stream/stop", json=stop)
                assert answer.json()["state"] == "stopped"
                note = await fleet.noted(stream_id, "halted", lambda note: note.pid == here.pid)
                delays.append(note.at - began_at)
                assert await stream.wait() is Status.STOPPED
    print(f"halted after {statistics.median(delays) * 1000:.0f} ms, the median of {STOPS}")


async def test_a_process_that_wakes_after_the_takeover_writes_nothing(
    store_url: str, tmp_path: Path
) -> None:
    whole = "".join(pieces_of("prompt", 24))
    async with fleet_of(2, store_url, tmp_path) as fleet:
        zombie, other = fleet.workers
        async with (
            Stream(f"{zombie.url}/stream") as first,
            Stream(f"{other.url}/stream") as second,
        ):
            await first.send("prompt", model="slow", stream_id="s")
            while len(first.text) < len(whole) / 4:
                await anext(first)
            # Before anything else, or on a busy machine the answer would have ended by then.
            zombie.send(signal.SIGSTOP)
            await second.attach("s")
            await fleet.noted("s", "called", lambda note: note.pid == other.pid)
            zombie.send(signal.SIGCONT)
            await fleet.noted("s", "halted", lambda note: note.pid == zombie.pid)
            for stream in (first, second):
                assert await stream.wait() is Status.DONE
                assert stream.text == whole
        async with Stream(f"{zombie.url}/stream", stream_id="s") as afterwards:
            assert await afterwards.wait() is Status.DONE
            assert afterwards.text == whole
        assert [note.pid for note in fleet.notes("s")] == [zombie.pid, other.pid]
