"""The suite sees every deliberate fault, and blames nobody who has none."""

from __future__ import annotations

import pytest

from streamstores.conformance import Target, all_checks, run_check
from streamstores.conformance.assertions import PATIENCE
from streamstores.errors import StreamStoreError
from tests.contract.broken import BROKEN, Wrapper

CHECKS = {check.id: check for check in all_checks()}


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not happen in memory in a second will not happen."""
    monkeypatch.setattr(PATIENCE, "prompt", 1.0)
    monkeypatch.setattr(PATIENCE, "eventual", 2.0)
    monkeypatch.setattr(PATIENCE, "whole_check", 8.0)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_fails_its_check(name: str) -> None:
    broken = BROKEN[name]
    with pytest.raises((AssertionError, StreamStoreError, TimeoutError)):
        run_check(CHECKS[broken.caught_by], Target(broken.make_store))


@pytest.mark.parametrize("check_id", sorted({each.caught_by for each in BROKEN.values()}))
def test_a_store_without_a_fault_passes_the_same_check(check_id: str) -> None:
    if "multi_process" in CHECKS[check_id].needs:
        pytest.skip("memory is one process")
    run_check(CHECKS[check_id], Target(Wrapper))
