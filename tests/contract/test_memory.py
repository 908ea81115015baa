"""The memory store against the contract."""

from __future__ import annotations

import pytest

from streamstores import LimitExceeded, Limits, MemoryStreamStore
from streamstores.conformance import contract_tests, history_tests, model_tests

test_contract = contract_tests(MemoryStreamStore)
test_model = model_tests(MemoryStreamStore)
test_history = history_tests(MemoryStreamStore)


async def test_a_single_chunk_over_append_bytes_is_refused():
    async with MemoryStreamStore(limits=Limits(append_bytes=10)) as store:
        await store.create("a")
        with pytest.raises(LimitExceeded):
            await store.append("a", b"x" * 11)
        assert (await store.append("a", b"x" * 10)).tail == 10
