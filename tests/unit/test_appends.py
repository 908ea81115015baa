"""`append_or_create` counts its calls, and gives up on a stream that comes and goes."""

from __future__ import annotations

from typing import Any

import pytest

from streamstores import (
    InvalidRequest,
    MemoryStreamStore,
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    append_or_create,
)
from tests.wrapping import Counting, Faulty, Wrapping


async def test_a_stream_that_exists_costs_one_call():
    store = Counting()
    await append_or_create(store, "a", b"1")
    assert store.calls["append"] == 1, "which found no stream"
    await append_or_create(store, "a", b"2")
    assert store.calls["append"] == 2
    assert (await store.info("a")).tail == 2


async def test_an_unknown_outcome_is_not_tried_again():
    store = Faulty("landed")
    await store.create("a")
    with pytest.raises(OutcomeUnknown):
        await append_or_create(store, "a", b"1")
    assert (await store.info("a")).tail == 1


async def test_a_stream_that_comes_and_goes_is_unavailable_in_the_end():
    class Flickering(Wrapping):
        async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
            info = await self.inner.create(stream_id, *chunks, **options)
            await self.inner.delete(stream_id)
            raise StreamExists("for a moment", info)

    with pytest.raises(StoreUnavailable, match="came and went"):
        await append_or_create(Flickering(), "a", b"1")


@pytest.mark.parametrize("options", [{"ttl": -1}, {"attributes": {"a": 1}}])
async def test_wrong_options_are_refused_for_a_new_stream(options: dict[str, Any]):
    async with MemoryStreamStore() as store:
        with pytest.raises(InvalidRequest):
            await append_or_create(store, "a", b"1", **options)
