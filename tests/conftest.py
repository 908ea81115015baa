"""What no test may leave behind for the tests after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """A command that switches logging off and is run in this process takes the log from every
    later test that looks at it."""
    yield
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert disabled == logging.NOTSET, "the test left logging switched off"
    assert not logging.getLogger("streamstores").disabled
