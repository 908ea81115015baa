"""What operators may do to streams, who may do it, and what nobody may make them do."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from streamstores import StreamNotFound
from streamstores.http import StreamRequest, create_stream_handler
from tests.http.conftest import Chat
from tests.http.serving import names, serving, text_of
from tests.monitor.client import HEADER, Watched, until
from tests.unit.scripted_runs import ended

SAVED = "streamstores.request/x"


def allow(request: Request, stream_id: str, action: str) -> bool:
    return True


async def seen(monitor: Any) -> dict[str, Any]:
    """The only stream, as the monitor shows it."""
    [stream] = (await monitor.streams())["streams"]
    found: dict[str, Any] = stream
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_without_authorize_action_the_monitor_only_shows(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s")
    monitor = await open_monitor(store)
    assert (await monitor.streams())["actions"] is False
    assert code(await monitor.act("delete", await seen(monitor))) == (403, "read_only")
    assert (await store.info("s")).state == "streaming"


async def test_a_stream_is_stopped_expired_and_deleted(
    store: Watched, open_monitor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamstores.http")
    await store.create("a-secret-id", b"text", attributes={"request_stream": SAVED})
    await store.create(SAVED, b"a request")
    monitor = await open_monitor(store, authorize_action=allow)
    assert (await monitor.streams())["actions"] is True
    stream = await seen(monitor)
    assert (await monitor.act("stop", stream)).status_code == 200
    assert (await store.info("a-secret-id")).state == "stopped"
    assert (await monitor.act("expire", stream, ttl=3600)).status_code == 200
    expires_at = (await store.info("a-secret-id")).expires_at
    assert expires_at is not None
    assert 3500 < (expires_at - datetime.now(timezone.utc)).total_seconds() <= 3600
    assert (await monitor.act("delete", stream)).status_code == 200
    for gone in ("a-secret-id", SAVED):
        with pytest.raises(StreamNotFound):
            await store.info(gone)
    acted = [each for each in caplog.records if getattr(each, "event", "") == "monitor.action"]
    assert len(acted) == 3
    assert "secret" not in caplog.text


async def test_a_delete_removes_no_stream_but_a_saved_request(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("other")
    await store.create("s", attributes={"request_stream": "other"})
    monitor = await open_monitor(store, authorize_action=allow)
    streams = (await monitor.streams())["streams"]
    [stream] = [each for each in streams if each["id"] == "s"]
    assert (await monitor.act("delete", stream)).status_code == 200
    assert (await store.info("other")).state == "streaming"


async def test_a_stop_halts_the_model_and_its_reader_gets_the_text(
    store: Watched, open_monitor: Any, client: httpx.AsyncClient
) -> None:
    async def model(request: StreamRequest) -> Any:
        yield "a word"
        while True:
            yield " more"
            await asyncio.sleep(0.01)

    async with create_stream_handler(model, store) as handler, serving(handler) as url:
        monitor = await open_monitor(store, handler=handler, authorize_action=allow)
        async with Chat(handler, url, client).start(id="s") as events:
            assert (await events.next()).name == "stream-id"
            await events.next()
            assert (await monitor.act("stop", await seen(monitor))).status_code == 200
            rest = await events.rest()
        assert names(rest)[-2:] == ["stopped", "done"]
        assert text_of(rest).startswith(" more") or text_of(rest) == ""
        assert (await ended(store, "s")).state == "stopped"


async def test_each_action_is_asked_for_and_only_true_allows(
    store: Watched, open_monitor: Any
) -> None:
    asked: list[tuple[str, str]] = []

    async def stops_only(request: Request, stream_id: str, action: str) -> Any:
        asked.append((stream_id, action))
        return action == "stop" or "yes"

    await store.create("s")
    monitor = await open_monitor(store, authorize_action=stops_only)
    stream = await seen(monitor)
    for action in ("delete", "expire"):
        assert code(await monitor.act(action, stream, ttl=1)) == (403, "forbidden")
    assert (await monitor.act("stop", stream)).status_code == 200
    assert asked == [("s", "delete"), ("s", "expire"), ("s", "stop")]


async def test_authorize_is_asked_before_authorize_action(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s")
    info = await store.info("s")
    stream = {"id": "s", "createdAt": info.created_at.isoformat()}
    monitor = await open_monitor(store, authorize=lambda request: False, authorize_action=allow)
    assert code(await monitor.act("delete", stream)) == (403, "forbidden")
    assert await store.info("s") == info


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Streamstores-Monitor": ""},
        {**HEADER, "Sec-Fetch-Site": "cross-site"},
        {**HEADER, "Sec-Fetch-Site": "same-site"},
        {**HEADER, "Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_a_request_that_another_origin_can_cause_does_nothing(
    store: Watched, open_monitor: Any, headers: dict[str, str]
) -> None:
    await store.create("s")
    monitor = await open_monitor(store, authorize_action=allow)
    answer = await monitor.act("delete", await seen(monitor), headers)
    assert code(answer) == (403, "cross_site")
    assert (await store.info("s")).state == "streaming"


async def test_a_namesake_of_what_the_operator_saw_is_left_alone(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("s")
    monitor = await open_monitor(store, authorize_action=allow)
    stream = await seen(monitor)
    await store.delete("s")
    await store.create("s", b"again")
    for action in ("stop", "expire", "delete"):
        assert code(await monitor.act(action, stream, ttl=1)) == (409, "changed")
    assert (await store.info("s")).tail == 5


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"action": "empty"}, (400, "invalid_action")),
        ({"action": ["stop"]}, (400, "invalid_action")),
        ({"action": None}, (400, "invalid_action")),
        ({"id": ""}, (400, "invalid_id")),
        ({"id": 7}, (400, "invalid_id")),
        ({"id": SAVED}, (400, "invalid_id")),
        ({"id": "other"}, (404, "not_found")),
        ({"action": "expire"}, (400, "invalid_ttl")),
        ({"action": "expire", "ttl": -1}, (400, "invalid_ttl")),
        ({"action": "expire", "ttl": "1"}, (400, "invalid_ttl")),
        ({"action": "stop", "padding": "x" * 5000}, (413, "too_large")),
    ],
    ids=str,
)
async def test_a_malformed_action_is_refused(
    store: Watched, open_monitor: Any, fields: dict[str, Any], refusal: tuple[int, str]
) -> None:
    await store.create("s")
    monitor = await open_monitor(store, authorize_action=allow)
    stream = await seen(monitor)
    action = fields.pop("action", "delete")
    assert code(await monitor.act(action, stream, **fields)) == refusal
    assert (await store.info("s")).state == "streaming"


async def test_a_finished_stream_cannot_be_stopped(store: Watched, open_monitor: Any) -> None:
    await store.create("s", state="done")
    monitor = await open_monitor(store, authorize_action=allow)
    assert code(await monitor.act("stop", await seen(monitor))) == (409, "ended")


# --- stale streams


async def test_a_stream_whose_producer_gives_no_sign_of_life_is_stale(
    store: Watched, open_monitor: Any
) -> None:
    await store.create("quiet", attributes={"owner": "x"})
    await store.create("not-a-run")
    await store.create("finished", attributes={"owner": "x"}, state="done")
    monitor = await open_monitor(store, heartbeat=0.05)
    async with monitor.look() as events:
        found = await until(events, lambda found: found["stale"])
        stale = {
            each["id"]: each["silentSeconds"] for each in found["streams"] if each["stale"]
        }
        assert list(stale) == ["quiet"]
        assert stale["quiet"] >= 0.15
        await store.append("quiet")
        await until(events, lambda found: not found["stale"])


async def test_a_clock_of_the_backend_that_is_behind_makes_no_stream_stale_for_long(
    store: Watched, open_monitor: Any
) -> None:
    """What the monitor has seen itself counts more than a difference of two clocks."""
    info = await store.create("s", attributes={"owner": "x"})
    behind = info.updated_at.replace(year=info.updated_at.year - 1)
    monitor = await open_monitor(store, heartbeat=60.0)
    stream = store._streams["s"]
    stream.info = info._replace(updated_at=behind)
    async with monitor.look() as events:
        await until(events, lambda found: found["stale"] == 1)
        grown = await store.append("s")
        stream.info = grown._replace(updated_at=behind)
        await until(events, lambda found: found["stale"] == 0)
