"""The store calls of each request, as the guide states them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.durable.client import CLOSED, Client
from tests.durable.conftest import Serve
from tests.wrapping import Wrapping

CALLS = ("create", "append", "read", "info", "expire", "delete")


class Priced(Wrapping):
    """Counts every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if name in CALLS:
            self.calls[name] += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("request_", "calls"),
    [
        (lambda client: client.put("new", b"x"), {"create": 1}),
        (lambda client: client.put("s", b"x"), {"create": 1}),
        (lambda client: client.get("s"), {"read": 1}),
        (lambda client: client.get("s", offset="now"), {"info": 1}),
        (lambda client: client.get("brief"), {"read": 1, "expire": 1}),
        (lambda client: client.head("s"), {"info": 1}),
        (lambda client: client.delete("s"), {"info": 2, "delete": 2}),
        (lambda client: client.post("s", b"x"), {"append": 1}),
        (lambda client: client.post("s", **CLOSED), {"append": 1}),
        (
            lambda client: client.fork("f", "s"),
            {"info": 2, "append": 1, "create": 2, "read": 1},
        ),
        (lambda client: client.get("s", offset="-1", live="long-poll"), {"read": 1}),
    ],
)
async def test_a_request_costs_what_the_guide_says(
    serve: Serve, request_: Any, calls: dict[str, int]
) -> None:
    store = Priced()
    client: Client = await serve(store)
    await client.put("s", b"x")
    await client.post("s", b"x")
    await client.put("brief", **{"Stream-TTL": "100"})
    store.calls.clear()
    assert (await request_(client)).is_success
    assert store.calls == calls
