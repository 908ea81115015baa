"""Resumable chats through four workers that are killed and restarted: every text comes whole,
once, and from no more calls of the model than their ends explain.

    STREAMSTORES_CHAOS_CHATS   how many chats on each store; 20 without it
    STREAMSTORES_CHAOS_SEED    decides what they meet; 1 without it
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.chats import failures_of
from tests.faults.workers import fleet_of

CHATS = int(os.environ.get("STREAMSTORES_CHAOS_CHATS", "20"))
SEED = int(os.environ.get("STREAMSTORES_CHAOS_SEED", "1"))


@pytest.mark.timeout(240 + 10 * CHATS)
async def test_chats_survive_cuts_stops_reloads_tabs_and_deaths(
    store_url: str, tmp_path: Path
) -> None:
    async with fleet_of(4, store_url, tmp_path) as fleet:
        failures = await failures_of(fleet, SEED, CHATS)
    calls = len(fleet.notes(None))
    print(f"{CHATS} chats, {len(fleet.ended)} workers ended, {calls} calls of models")
    log = "\n".join(fleet.logs)
    assert not failures, "\n".join([*failures, "the workers' log:", log[-10_000:]])
    assert "Traceback" not in log, log
