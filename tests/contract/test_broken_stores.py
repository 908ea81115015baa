"""Each check fails on the stores that break it, and passes on a store that does not."""

from __future__ import annotations

import pytest

from streamstores.conformance import Target, all_checks, run_check
from streamstores.conformance.assertions import PATIENCE
from streamstores.errors import StreamStoreError
from tests.contract.broken import BROKEN, Wrapper
from tests.contract.broken.changes import SharingWrapper

CHECKS = {check.id: check for check in all_checks()}


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less than usual for what a broken store never does."""
    monkeypatch.setattr(PATIENCE, "prompt", 1.0)
    monkeypatch.setattr(PATIENCE, "eventual", 2.0)
    monkeypatch.setattr(PATIENCE, "whole_check", 8.0)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_fails_its_check(name: str) -> None:
    """The check must fail for a reason that belongs to the store, not by a slip of its own."""
    broken = BROKEN[name]
    with pytest.raises((AssertionError, StreamStoreError, TimeoutError)):
        run_check(CHECKS[broken.caught_by], Target(broken.make_store))


@pytest.mark.parametrize("check_id", sorted({each.caught_by for each in BROKEN.values()}))
def test_an_unbroken_store_passes_the_same_check(check_id: str) -> None:
    if "multi_process" in CHECKS[check_id].needs:
        pytest.skip("memory is one process")
    needs_changes = "changes" in CHECKS[check_id].needs
    run_check(CHECKS[check_id], Target(SharingWrapper if needs_changes else Wrapper))
