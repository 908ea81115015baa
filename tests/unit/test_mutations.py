"""The rules of mutations, and that the memory store has no others."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from streamstores import Limits, MemoryStreamStore, StreamInfo, StreamStoreError

LIMITS = Limits(record_bytes=4, append_bytes=6)

appends = st.fixed_dictionaries(
    {"chunks": st.lists(st.binary(max_size=5), max_size=3)},
    optional={
        "state": st.sampled_from(["streaming", "stopped", "done", "error"]),
        "version": st.integers(-1, 1),
        "at": st.sampled_from([0, 4]),
        "attributes": st.just({"a": "b"}),
    },
)


class WithoutTheShortWay(MemoryStreamStore):
    def _append_one(self, *arguments: Any) -> None:
        return None


async def _outcomes(store: MemoryStreamStore, requests: list[dict[str, Any]]) -> list[Any]:
    first = await store.create("a", ttl=60)
    version = first.version

    def shown(info: StreamInfo) -> tuple[Any, ...]:
        assert (info.created_at, info.ttl) == (first.created_at, 60)
        assert info.expires_at is not None
        assert first.expires_at is not None
        assert info.expires_at >= first.expires_at
        return info._replace(version=info.version - first.version)[:6]

    outcomes: list[Any] = []
    for request in requests:
        options = dict(request)
        chunks = options.pop("chunks")
        if "version" in options:
            options["version"] += version
        try:
            info = await store.append("a", *chunks, **options)
        except StreamStoreError as exc:
            outcomes.append(type(exc))
        else:
            version = info.version
            outcomes.append(shown(info))
    page = await store.read("a")
    return [*outcomes, page.records, shown(page.info)]


@given(st.lists(appends, max_size=6))
@example(
    [{"chunks": [b"1"]}, {"chunks": [b"2"], "version": 0}, {"chunks": [b"3"], "version": 1}]
)
@example([{"chunks": [b"12345"]}, {"chunks": [b""]}])
@example([{"chunks": [], "state": "stopped"}, {"chunks": [b"1"]}])
def test_the_short_way_of_a_memory_append_is_the_long_way(requests: list[dict[str, Any]]):
    short = asyncio.run(_outcomes(MemoryStreamStore(limits=LIMITS), requests))
    long = asyncio.run(_outcomes(WithoutTheShortWay(limits=LIMITS), requests))
    assert short == long
