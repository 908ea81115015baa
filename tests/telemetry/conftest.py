"""A recording of what the package reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("opentelemetry.sdk")

from streamstores.integrations.opentelemetry import uninstrument
from tests.telemetry.recording import Recording


@pytest.fixture
def recording() -> Iterator[Recording]:
    yield Recording()
    uninstrument()
