"""Which requests the monitor allows."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request

from streamstores.http.monitor import create_monitor, only_loopback
from tests.monitor.client import PATHS, Watched


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_that_authorize_refuses_gets_403(
    store: Watched, open_monitor: Any, path: str
) -> None:
    async def by_header(request: Request) -> bool:
        return request.headers["x-key"] == "let me in"

    monitor = await open_monitor(store, authorize=by_header)
    for headers in {}, {"X-Key": "please"}:
        answer = await monitor.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert store.listings == 0
    async with httpx.AsyncClient() as client:
        headers = {"X-Key": "let me in"}
        async with client.stream("GET", monitor.url + path, headers=headers) as allowed:
            assert allowed.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "monitor.example"},
        {"Host": "127.0.0.1.example:80"},
        {"Host": "an_odd_name.example"},
        {"Host": "[nonsense"},
        {"Host": ""},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_a_request_that_may_come_from_another_machine_is_refused(
    store: Watched, open_monitor: Any, headers: dict[str, str]
) -> None:
    answer = await (await open_monitor(store)).get("/streams", headers=headers)
    assert (answer.status_code, store.listings) == (403, 0)


@pytest.mark.parametrize(
    ("client", "host", "version", "is_loopback"),
    [
        (("127.0.0.1", 1), "localhost:8000", "1.1", True),
        (("127.8.0.1", 1), "127.0.0.1", "2", True),
        (("::1", 1), "[::1]:8000", "1.1", True),
        (("192.0.2.7", 1), "localhost", "1.1", False),
        (("127.0.0.1", 1), "192.0.2.7", "1.1", False),
        (("127.0.0.1", 1), "localhost", "1.0", False),
        (("testclient", 1), "localhost", "1.1", False),
        (None, "localhost", "1.1", False),
    ],
)
def test_loopback_is_client_and_name_both(
    client: tuple[str, int] | None, host: str, version: str, is_loopback: bool
) -> None:
    scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 80), "path": "/"}
    scope["http_version"] = version
    headers = [(b"host", host.encode())]
    request = Request({**scope, "query_string": b"", "headers": headers, "client": client})
    assert only_loopback(request) is is_loopback


def test_authorize_has_no_default(store: Watched) -> None:
    with pytest.raises(TypeError, match="authorize"):
        create_monitor(store)  # type: ignore[call-arg]  # this is what is refused
