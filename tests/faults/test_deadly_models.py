"""A model that ends its process takes down a few processes, not the fleet."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from streamstores import State, open_store
from streamstores.runs import OWNER
from tests.faults.deadly_reader import MAX_TAKEOVERS

READERS = 4


async def read(store_url: str, how: str) -> tuple[int | None, str]:
    """How a reader's process ended, and what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.deadly_reader", store_url, how),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await child.communicate()
    return child.returncode, printed.decode().strip()


@pytest.mark.parametrize(("how", "deaths"), [("kill", MAX_TAKEOVERS), ("exit", 0)])
async def test_a_deadly_model_ends_in_an_error_after_few_deaths(
    store_url: str, how: str, deaths: int
) -> None:
    async with open_store(store_url) as store:
        await store.create("s", attributes={OWNER: "dead.1"})
        readers = [read(store_url, how) for _ in range(READERS)]
        ends = await asyncio.gather(*readers)
        dead = [end for end in ends if end == (-signal.SIGKILL, "")]
        alive = [end for end in ends if end == (0, "error")]
        assert (len(dead), len(alive)) == (deaths, READERS - deaths), ends
        assert (await store.info("s")).state is State.ERROR
