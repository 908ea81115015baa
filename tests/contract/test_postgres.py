"""The PostgreSQL store against the contract: newest and oldest server, notices and polling."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from streamstores.conformance import Target, contract_tests, model_tests, target_of
from tests.services import PATIENCE
from tests.services.postgres import fresh_schema, shared, with_options

VARIANTS = {
    "18": (18, {}),
    "18-polling": (18, {"notify": "false"}),
    "16": (16, {}),
}
PATIENT = {"timeout": PATIENCE, "command_timeout": PATIENCE}


# What differs between the variants has tests of its own, so the whole contract on the others is
# left to the long run and to a release.
@pytest.fixture(
    scope="module",
    params=[
        "18",
        pytest.param("18-polling", marks=pytest.mark.long),
        pytest.param("16", marks=pytest.mark.release),
    ],
)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    version, options = VARIANTS[request.param]
    with fresh_schema(shared(version)) as url:
        yield target_of(with_options(url, **PATIENT, **options))


test_contract = contract_tests("target")
test_model = model_tests(
    "target",
    settings=hypothesis.settings(
        max_examples=15,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    ),
)
