"""The S3 store against the contract, and against its Hypothesis model."""

from __future__ import annotations

import pytest

from streamstores.conformance import Target, contract_tests, target_of
from tests.services.s3 import shared


@pytest.fixture(scope="module")
def s3() -> Target:
    return target_of(shared().url())


test_contract = contract_tests("s3")
