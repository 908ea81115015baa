"""What every test finds, and what none may leave behind."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from streamstores import observation

# On a busy machine one example may take seconds, and so may its generation.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(trylast=True)  # after the tests that this run leaves out are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first in the share that each worker of pytest-xdist begins with."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    size = len(items) // workers
    items.clear()
    for number in range(workers):
        first = slow[number::workers]
        rest = max(size - len(first), 0)
        items += first + others[:rest]
        others = others[rest:]
    items += others


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """A shell that runs the tests in the background has them, and all their processes, ignore
    SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """A command that switches logging off and is run in this process takes the log from every
    later test that looks at it."""
    yield
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert disabled == logging.NOTSET, "the test left logging switched off"
    assert not logging.getLogger("streamstores").disabled


@pytest.fixture(autouse=True)
def nothing_is_observed() -> Iterator[None]:
    """An observer that a test leaves hears of the streams of every later test, and writes
    attributes into them."""
    yield
    left = observation.observer
    observation.observe(None)
    assert left is None, f"the test left {left!r}"
