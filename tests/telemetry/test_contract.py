"""A store that is instrumented keeps the whole contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamstores import MemoryStreamStore
from streamstores.conformance import Target, contract_tests
from streamstores.integrations.opentelemetry import uninstrument
from tests.telemetry.recording import Recording


@pytest.fixture
def target() -> Iterator[Target]:
    recording = Recording()
    yield Target(lambda: recording.instrument(MemoryStreamStore()))
    uninstrument()


test_contract = contract_tests("target")
