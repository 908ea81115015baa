"""The Redis store against the contract: newest and oldest server, TLS and password,
Sentinel, Cluster."""

from __future__ import annotations

import pytest

from streamstores.conformance import Target, contract_tests, model_tests, target_of
from tests.services import PATIENCE
from tests.services.redis import shared, with_options, with_own_prefix


@pytest.fixture(
    scope="module",
    params=[
        "valkey",
        pytest.param("redis-6.2-tls", marks=pytest.mark.release),
        pytest.param("sentinel", marks=pytest.mark.release),
        pytest.param("cluster", marks=pytest.mark.long),
    ],
)
def target(request: pytest.FixtureRequest) -> Target:
    return target_of(with_options(with_own_prefix(shared(request.param)), timeout=PATIENCE))


@pytest.fixture(
    scope="module", params=["valkey", pytest.param("cluster-6.2", marks=pytest.mark.release)]
)
def model_target(request: pytest.FixtureRequest) -> Target:
    return target_of(with_options(with_own_prefix(shared(request.param)), timeout=PATIENCE))


test_contract = contract_tests("target")
test_model = model_tests("model_target")
