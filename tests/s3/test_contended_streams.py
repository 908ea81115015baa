"""A change of a stream that another process writes without a pause."""

from __future__ import annotations

import time

import pytest

from streamstores.backends._s3 import writer_courtesy
from streamstores.backends._s3.block_format import Block
from streamstores.backends._s3.known_streams import KnownStream
from streamstores.backends._s3.segment_chain import SegmentChain
from streamstores.backends._s3.writer_courtesy import WriterCourtesy
from tests.s3.conftest import Place

PUT, GET, LIST = "put_object", "get_object", "list_objects_v2"
WRITE_SECONDS = 10.0


async def test_a_change_that_is_outrun_does_not_read_what_outran_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would come too late again: the other has written on while it read."""
    writer, (loser, client) = await place.store(), await place.recorded()
    await writer.create("a")
    await loser.info("a")
    rounds: list[list[str]] = []
    put = SegmentChain.put

    async def put_too_late(
        chain: SegmentChain, known: KnownStream, block: Block
    ) -> float | None:
        if chain is loser._chain and len(rounds) < 5:
            for _ in range(6):
                await writer.append("a", b"x")
        date = await put(chain, known, block)
        if chain is loser._chain:
            rounds.append([name for name, _ in client.calls])
            client.forget()
        return date

    monkeypatch.setattr(SegmentChain, "put", put_too_late)
    stopped = await loser.mark_done("a", "stopped")
    assert stopped.tail == 30
    assert rounds[2:] == [[LIST, GET, PUT, GET]] * 3 + [[LIST, GET, PUT]]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each pause, none of which is waited for."""
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(writer_courtesy.asyncio, "sleep", note)
    return pauses


async def write(times: int, *, gap_seconds: float) -> None:
    """Write with these gaps, each time as if it took ten seconds."""
    courtesy = WriterCourtesy()
    for _ in range(times):
        await courtesy.wait("a")
        courtesy.wrote("a", time.monotonic() - WRITE_SECONDS)
        courtesy._paces["a"].ended_at -= gap_seconds


async def test_a_writer_pauses_now_and_then_also_if_it_looks_before_each_write(
    pauses: list[float],
) -> None:
    await write(150, gap_seconds=1.5 * WRITE_SECONDS)
    assert pauses == [pytest.approx(6 * WRITE_SECONDS, abs=1)] * 2


async def test_a_writer_that_leaves_long_gaps_never_pauses(pauses: list[float]) -> None:
    await write(150, gap_seconds=7 * WRITE_SECONDS)
    assert pauses == []
