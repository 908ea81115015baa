"""A producer is killed, another process takes its stream over: their spans are linked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import pytest

from streamstores import open_store
from tests.http.serving import Events, text_of
from tests.integrations.processes import start_process
from tests.services import postgres, redis
from tests.telemetry.spans import ExportedSpan, spans_in

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/streams.db"
        elif request.param == "redis":
            yield redis.with_own_prefix(redis.shared())
        else:
            yield stack.enter_context(postgres.fresh_schema(postgres.shared()))


async def ended(path: Path, name: str, count: int = 1) -> list[ExportedSpan]:
    while len(found := spans_in(path, name)) < count:
        await asyncio.sleep(0.02)
    return found


async def test_a_takeover_after_kill_9_is_linked_to_the_start_in_the_dead_process(
    store_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "spans"
    environment = {"STORE": store_url, "SPANS": str(path)}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=120))
        app = "tests.telemetry.app:app"
        dying = await start_process(stack, client, app, **environment)
        body = {"prompt": "hi", "id": "s"}
        headers = {"traceparent": CALLER}
        post = client.stream("POST", f"{dying.url}/stream", json=body, headers=headers)
        with pytest.raises(httpx.TransportError):
            async with post as response:
                events = Events(response)
                while (await events.next()).data != "begun ":
                    pass
                await dying.kill()
                await events.rest()
        other = await start_process(stack, client, app, **environment)
        params = {"id": "s", "mode": "follow"}
        async with client.stream("GET", f"{other.url}/stream/resume", params=params) as found:
            assert text_of(await Events(found).rest()) == "begun and ended"
        [start] = await ended(path, "streamstores start")
        [takeover] = await ended(path, "streamstores takeover")
        [run] = await ended(path, "streamstores run")
        [get] = await ended(path, "GET /stream/resume")
    async with open_store(store_url) as store:
        traceparent = (await store.info("s")).attributes["traceparent"]
    # The dead process began the stream in its client's trace, and the stream says so.
    assert start.pid != takeover.pid == run.pid == get.pid
    assert start.trace == CALLER.split("-")[1]
    assert traceparent == f"00-{start.trace}-{start.id}-01"
    # What the other process did is linked to that start.
    for span in takeover, run, get:
        assert [start.trace, start.id] in span.links
    assert (takeover.parent, run.parent) == (get.id, takeover.id)
    assert takeover.attributes == {
        "streamstores.takeover.reason": "died",
        "streamstores.outcome": "continued",
    }
    assert run.attributes == {"streamstores.outcome": "done"}
