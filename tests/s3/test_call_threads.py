"""Blocking calls in threads: their bounds, and what cancellation leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from streamstores.backends._s3.call_threads import CallNotStarted, CallOverdue, CallThreads

LONG = 30.0


@pytest.fixture
async def threads() -> AsyncIterator[CallThreads]:
    threads = CallThreads(2)
    yield threads
    await threads.aclose(LONG)


async def test_results_and_errors_come_back(threads: CallThreads) -> None:
    assert await threads.run(lambda: 7, LONG, changes=False) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0, LONG, changes=False)


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancellation_is_never_lost(threads: CallThreads, steps: int) -> None:
    """In whichever turn of the loop it comes: a poller that missed it would never end."""
    may_end = threading.Event()

    async def poll() -> None:
        while True:
            await threads.run(lambda: may_end.wait(0.001), LONG, changes=False)

    task = asyncio.create_task(poll())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=LONG)
    assert task.cancelled()
    may_end.set()
    assert await threads.run(lambda: 7, LONG, changes=False) == 7


async def test_a_cancelled_wait_for_a_thread_gives_its_turn_to_the_next(
    threads: CallThreads,
) -> None:
    may_end = threading.Event()
    busy = [
        asyncio.create_task(threads.run(may_end.wait, LONG, changes=False)) for _ in range(2)
    ]
    waiting = [
        asyncio.create_task(threads.run(lambda: 7, LONG, changes=False)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    may_end.set()
    waiting[0].cancel()
    assert await asyncio.wait_for(asyncio.gather(*waiting[1:]), LONG) == [7, 7]
    await asyncio.gather(*busy)
    assert waiting[0].cancelled()


async def test_a_call_that_cannot_begin_in_time_never_begins(threads: CallThreads) -> None:
    may_end = threading.Event()
    busy = [
        asyncio.create_task(threads.run(may_end.wait, LONG, changes=False)) for _ in range(2)
    ]
    await asyncio.sleep(0)
    begun = threading.Event()
    with pytest.raises(CallNotStarted):
        await threads.run(begun.set, 0.01, changes=False)
    may_end.set()
    await asyncio.gather(*busy)
    assert await threads.run(lambda: 7, LONG, changes=False) == 7
    assert not begun.is_set()


async def test_a_call_that_hangs_is_replaced_and_its_thread_ends_with_it(
    threads: CallThreads,
) -> None:
    may_end = threading.Event()
    for _ in range(6):  # three times as many as there are threads
        with pytest.raises(CallOverdue):
            await threads.run(may_end.wait, 0.01, changes=False)
    assert await threads.run(lambda: 7, LONG, changes=False) == 7
    may_end.set()
    while threads.stuck:
        await asyncio.sleep(0.01)


async def test_closing_waits_for_changes_only() -> None:
    threads = CallThreads(2)
    may_end = threading.Event()
    read = asyncio.create_task(threads.run(may_end.wait, LONG, changes=False))
    change = asyncio.create_task(threads.run(lambda: 7, LONG, changes=True))
    await asyncio.sleep(0)
    await threads.aclose(LONG)
    assert await change == 7
    assert not read.done()
    may_end.set()
    await read
