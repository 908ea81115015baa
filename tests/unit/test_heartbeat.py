"""When the heartbeats of writers are due."""

from __future__ import annotations

import asyncio

from streamstores._writer.heartbeat import Heartbeat


async def test_writers_that_began_at_different_times_show_life_at_the_same_moments():
    heartbeats = []
    for _ in range(20):
        heartbeats.append(Heartbeat(600, lambda: None))
        await asyncio.sleep(0.001)
    # Two if a moment was passed meanwhile; they are twelve seconds apart.
    assert len({heartbeat._timer.when() for heartbeat in heartbeats}) <= 2
    for heartbeat in heartbeats:
        heartbeat.stop()


async def test_a_heartbeat_is_neither_early_nor_late_by_more_than_a_fiftieth():
    loop = asyncio.get_running_loop()
    for _ in range(20):
        before = loop.time()
        heartbeat = Heartbeat(600, lambda: None)
        assert before + 588 <= heartbeat._timer.when() <= loop.time() + 612
        heartbeat.stop()
        await asyncio.sleep(0.001)


async def test_it_comes_again_and_again_and_not_after_an_append():
    due = []
    heartbeat = Heartbeat(0.01, lambda: due.append(True))
    while len(due) < 5:
        await asyncio.sleep(0.001)
    heartbeat.append_begins()
    due.clear()
    await asyncio.sleep(0.05)
    assert not due
    heartbeat.append_returned()
    while not due:
        await asyncio.sleep(0.001)
    heartbeat.stop()
