"""`in_time`, and the cancellations that `asyncio.wait_for` loses before Python 3.12."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import streamstores
from streamstores._time_limits import in_time


@pytest.mark.parametrize("outcome", ["a result", "an error"])
async def test_a_cancellation_in_the_turn_of_the_outcome_is_not_lost(outcome: str) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(in_time(future, 30))
    await asyncio.sleep(0)
    if outcome == "a result":
        future.set_result(outcome)
    else:
        future.set_exception(ValueError(outcome))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_is_cancelled_as_its_step_ends_does_not_go_on() -> None:
    """What closing a store does with its background tasks: cancel once, then wait."""
    step = asyncio.Event()

    async def work() -> None:
        while True:
            step.clear()
            await in_time(step.wait(), 30)
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    step.set()
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)
    assert task in done


async def test_what_is_late_is_cancelled_before_the_error() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError, match=r"no answer in 0\.01 seconds"):
        await in_time(work(), 0.01)
    assert ended


async def test_a_cancelled_caller_waits_until_the_work_has_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    task = asyncio.ensure_future(in_time(work(), 3600))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_results_and_errors_are_passed_on() -> None:
    async def fail() -> None:
        raise ValueError("wrong")

    assert await in_time(asyncio.sleep(0, "result"), 30) == "result"
    with pytest.raises(ValueError, match="wrong"):
        await in_time(fail(), 30)


def test_no_other_module_uses_wait_for() -> None:
    """But one, which closes a connection that is there although it was cancelled."""
    package = Path(streamstores.__file__).parent
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "asyncio.wait_for(" in path.read_text(encoding="utf-8")
    }
    assert users == {"backends/_redis/shared_connection.py"}
