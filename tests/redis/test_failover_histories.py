"""Histories of concurrent clients while Sentinel moves the master as it was told to."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from streamstores.conformance import target_of
from streamstores.conformance.histories import run_history
from tests.services import Unavailable, give_up
from tests.services.redis import Sentinel, Server, own_sentinel, wait_until

pytestmark = pytest.mark.long

LONGEST_WAIT_SECONDS = 1.5
"""A planned failover takes about a second. Histories are shorter, so each begins at a random
moment of it."""


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    try:
        with own_sentinel() as watch:
            yield watch
    except Unavailable as exc:
        give_up("redis", exc)


def is_replica(server: Server) -> bool:
    try:
        return bool(server.ask("ROLE")[0] == b"slave")
    except (OSError, RuntimeError):  # the sentinel kills all clients of a server it demotes
        return False


class PlannedFailover:
    """Moves the master while the clients work."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._sentinel = sentinel
        self.count = 0

    @contextmanager
    def spoil(self, seed: int) -> Generator[None, None, None]:
        old, new = self._sentinel.master, self._other()
        with ThreadPoolExecutor() as thread:
            failover = thread.submit(self._sentinel.fail_over)
            time.sleep(random.Random(seed).uniform(0, LONGEST_WAIT_SECONDS))
            try:
                yield
            finally:
                failover.result()
                wait_until(lambda: is_replica(old), "the demotion")
                wait_until(lambda: b"state=online" in new.ask("INFO"), "the replication")
        self.count += 1

    def _other(self) -> Server:
        master = self._sentinel.master
        return next(each for each in self._sentinel.servers if each is not master)


@pytest.mark.slow
def test_histories_over_planned_failovers_have_an_explanation(sentinel: Sentinel) -> None:
    failovers = PlannedFailover(sentinel)
    for seed in range(1, 8):
        run_history(target_of(f"{sentinel.url}?timeout=4"), seed, network=failovers)
    assert failovers.count == 7
