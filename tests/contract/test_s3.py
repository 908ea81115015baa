"""The S3 store against the contract, and against its Hypothesis model."""

from __future__ import annotations

import hypothesis
import pytest

from streamstores.conformance import Target, contract_tests, model_tests, target_of
from tests.services.s3 import shared


@pytest.fixture(scope="module")
def s3() -> Target:
    return target_of(shared().url())


@pytest.fixture(scope="module")
def fresh_s3() -> Target:
    return target_of(shared().url())


test_contract = contract_tests("s3")

# Few examples, because each step is a request or more.
test_model = pytest.mark.long(
    model_tests(
        "fresh_s3",
        settings=hypothesis.settings(
            max_examples=12,
            stateful_step_count=25,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
)
