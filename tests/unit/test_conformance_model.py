"""The model test finds faults by random operations, and the oracle follows the contract."""

from __future__ import annotations

import hypothesis
import pytest

from streamstores.conformance import model_tests
from streamstores.conformance.oracle import OracleStream, Wish
from streamstores.errors import StreamStoreError
from tests.contract.broken import BROKEN, Wrapper

WITHOUT_SHRINKING = hypothesis.settings(
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)

FOUND = (
    "AppendCreates",
    "AppendsAgainAfterAConflict",
    "BeginsWithTheWholeRecord",
    "GrowsTheVersionAtARepeatedState",
    "CreateOverwrites",
    "CutsRecordsAtMaxBytes",
    "DropsTheLastOfThreeChunks",
    "ExpireGrowsTheVersion",
    "FoldsCase",
    "IsOffByOneInsideARecord",
    "MergesAttributes",
    "ReopensStoppedStreamsByAccident",
    "StoresText",
)


@pytest.mark.parametrize("name", FOUND)
def test_the_model_finds_the_fault(name: str, request: pytest.FixtureRequest) -> None:
    run = model_tests(BROKEN[name].make_store, settings=WITHOUT_SHRINKING)
    with pytest.raises((AssertionError, StreamStoreError)):
        run(request)


def test_the_model_finds_no_fault_in_an_unbroken_store(request: pytest.FixtureRequest) -> None:
    model_tests(Wrapper)(request)


def stream(state: str = "streaming") -> OracleStream:
    return OracleStream("a", b"abc", [3], state, {}, version=7)


@pytest.mark.parametrize(
    ("state", "wish", "verdict"),
    [
        ("streaming", Wish(), "changes"),
        ("streaming", Wish(at=2), "conflict"),
        ("streaming", Wish(at=3, version=7), "changes"),
        ("streaming", Wish(at=3, version=6), "conflict"),
        ("stopped", Wish(at=2), "closed"),
        ("stopped", Wish(state="stopped", at=2), "nothing"),
        ("stopped", Wish((b"x",), state="stopped"), "closed"),
        ("stopped", Wish((b"x",), state="streaming"), "changes"),
        ("stopped", Wish((b"x",), state="done"), "closed"),
        ("stopped", Wish(state="done", attributes={}), "changes"),
        ("done", Wish(state="done"), "nothing"),
        ("done", Wish(state="done", attributes={}), "closed"),
        ("done", Wish(state="error"), "closed"),
    ],
)
def test_the_oracle_follows_the_contract(state: str, wish: Wish, verdict: str) -> None:
    assert stream(state).verdict(wish) == verdict
