"""Measure what a failover loses: `python -m tests.redis.failover_losses`.

A master and a replica behind one sentinel; a producer appends a numbered record every ten
milliseconds, without a version, and notes which appends were acknowledged. In a planned
failover the sentinel is told to promote the replica (`SENTINEL FAILOVER`); in an unplanned one
the master is killed. A record is lost if its append was acknowledged and the stream on the new
master lacks it. Prints a line for each durability and kind of failover.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import NamedTuple

from streamstores import OutcomeUnknown, RedisStreamStore, StoreUnavailable
from tests.services.redis import VALKEY, Sentinel, Server, own_sentinel

DOWN_AFTER_MILLISECONDS = 2_000
SECONDS_BEFORE, SECONDS_AFTER = 2.0, 12.0  # the old master is demoted within about ten
INTERVAL_SECONDS = 0.01


class Losses(NamedTuple):
    acknowledged: int
    lost: int
    unavailable_seconds: float
    """The longest time between two acknowledged appends."""


async def measure(sentinel: Sentinel, durability: str, *, is_planned: bool) -> Losses:
    """Append over one failover, and compare with what the new master has."""
    async with RedisStreamStore(sentinel.url, durability=durability, timeout=2.0) as store:
        await store.create("losses")
        producing = asyncio.create_task(_produce(store))
        await asyncio.sleep(SECONDS_BEFORE)
        if is_planned:
            await asyncio.to_thread(sentinel.fail_over)
        else:
            await asyncio.to_thread(_replace_killed, sentinel, sentinel.master)
        acknowledged, unavailable_seconds = await producing
    async with RedisStreamStore(f"redis://{sentinel.master.address}") as survivor:
        page = await survivor.read("losses", max_bytes=100_000_000)
        survived = {int(record.data) for record in page.records}
    return Losses(len(acknowledged), len(acknowledged - survived), unavailable_seconds)


async def _produce(store: RedisStreamStore) -> tuple[set[int], float]:
    acknowledged: set[int] = set()
    number, longest = 0, 0.0
    end = time.monotonic() + SECONDS_BEFORE + SECONDS_AFTER
    last = time.monotonic()
    while (now := time.monotonic()) < end:
        try:
            await store.append("losses", b"%d " % number)
        except (StoreUnavailable, OutcomeUnknown):
            pass  # not acknowledged
        else:
            acknowledged.add(number)
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()
        number += 1
        await asyncio.sleep(max(0.0, now + INTERVAL_SECONDS - time.monotonic()))
    return acknowledged, max(longest, time.monotonic() - last)


def _replace_killed(sentinel: Sentinel, master: Server) -> None:
    """Kill the master, and start it again once the sentinel has promoted the replica."""
    master.kill()
    while sentinel.master is master:
        time.sleep(0.01)
    master.start()


def main() -> None:
    for is_planned in (True, False):
        for durability in ("async", "replica"):
            with own_sentinel(VALKEY) as sentinel:
                sentinel.sentinel.ask(
                    *("SENTINEL", "SET", sentinel.NAME),
                    *("down-after-milliseconds", DOWN_AFTER_MILLISECONDS),
                )
                losses = asyncio.run(measure(sentinel, durability, is_planned=is_planned))
            kind = "planned" if is_planned else "unplanned"
            sys.stdout.write(f"{kind:9} {durability:8} {losses}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
