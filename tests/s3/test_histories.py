"""Histories of concurrent clients on a server whose answers are spoilt; a few seeds of many."""

from __future__ import annotations

import pytest

from tests.s3.faulty_histories import run_faulty_history


@pytest.mark.parametrize("seed", range(4))
def test_histories_on_a_faulty_server_have_an_explanation(seed: int) -> None:
    calls, spoilt = run_faulty_history(seed)
    assert calls > 10
    assert spoilt > 0


@pytest.mark.parametrize(
    "seed",
    [
        *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1000, 1020)),
        *(pytest.param(seed, marks=pytest.mark.release) for seed in range(1020, 1060)),
    ],
)
def test_histories_on_a_very_faulty_server_have_an_explanation(seed: int) -> None:
    run_faulty_history(seed, share=0.15)
