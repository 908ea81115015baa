"""The memory store against the contract."""

from __future__ import annotations

from streamstores import MemoryStreamStore
from streamstores.conformance import contract_tests, model_tests

test_contract = contract_tests(MemoryStreamStore)
test_model = model_tests(MemoryStreamStore)
