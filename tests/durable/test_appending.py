"""Appends: exactness, cost and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore, OutcomeUnknown
from streamstores.errors import InvalidRequest
from streamstores.http import create_durable_streams_app
from streamstores.limits import Limits
from tests.durable.client import CLOSED, JSON, TEXT, Client, at, producer, refusal
from tests.durable.conftest import Serve
from tests.http.serving import serving
from tests.wrapping import Counting, Faulty


class Watched(Counting):
    """Counts reads of the info too, and can hold appends back until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def info(self, stream_id: str) -> Any:
        self.calls["info"] += 1
        return await super().info(stream_id)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        self.waiting += 1
        await self.gate.wait()
        return await super().append(stream_id, *chunks, **options)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_an_append_is_one_call_after_the_first(serve: Serve) -> None:
    store = Watched()
    client = await serve(store)
    await client.put("s")
    assert (await client.post("s", b"a")).status_code == 204
    assert store.calls == {"info": 1, "append": 1}
    for _ in range(5):
        assert (await client.post("s", b"a")).status_code == 204
    assert store.calls == {"info": 1, "append": 6}


async def test_appends_that_wait_go_out_together_and_each_learns_its_own_end() -> None:
    store = Watched()
    app = create_durable_streams_app(store)
    bodies = 0

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            nonlocal bodies
            message = await receive()
            bodies += len(message.get("body", b"")) > 0
            return message

        await app(scope, received, send)

    async with app, serving(counted, lifespan="off") as url, httpx.AsyncClient() as http:
        client = Client(url, http)
        await client.put("s")
        store.gate.clear()
        first = asyncio.ensure_future(client.post("s", b"first"))
        await until(lambda: store.waiting == 1)
        rest = [asyncio.ensure_future(client.post("s", b"%d" % n)) for n in range(10)]
        await until(lambda: bodies == 11)
        await asyncio.sleep(0)  # the last of them joins those that wait
        store.gate.set()
        assert (await first).headers["stream-next-offset"] == at(5)
        ends = sorted([(await each).headers["stream-next-offset"] for each in rest])
        assert ends == [at(6 + n) for n in range(10)]
        assert store.calls["append"] < 11
        assert len(await client.text("s")) == 15


async def test_a_refused_request_does_not_affect_others_in_the_same_append(
    serve: Serve,
) -> None:
    store = Watched()
    client = await serve(store)
    await client.put("s")
    store.gate.clear()
    first = asyncio.ensure_future(client.post("s", b"a"))
    await until(lambda: store.waiting == 1)
    bad = asyncio.ensure_future(client.post("s", b"1", **JSON))
    good = [asyncio.ensure_future(client.post("s", b"b")) for _ in range(3)]
    asyncio.get_running_loop().call_later(0.1, store.gate.set)
    assert refusal(await bad) == (409, "content_type_mismatch")
    assert [(await each).status_code for each in (first, *good)] == [204] * 4
    assert await client.text("s") == "abbb"


async def test_a_stream_begun_anew_takes_no_bytes_of_the_old_content_type(
    serve: Serve,
) -> None:
    async with MemoryStreamStore() as store:
        old, other = await serve(store), await serve(store)
        await old.put("s")
        assert (await old.post("s", b"text")).status_code == 204
        await other.delete("s")
        await other.put("s", b"[1]", **JSON)
        assert refusal(await old.post("s", b"text")) == (409, "content_type_mismatch")
        assert (await old.get("s")).json() == [1]
        assert (await old.post("s", b"2", **JSON)).status_code == 204
        assert (await old.get("s")).json() == [1, 2]


async def test_a_refusal_is_never_based_on_stale_info(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        old, other = await serve(store), await serve(store)
        await old.put("s")
        assert (await old.post("s", b"a", **producer(0, epoch=5))).status_code == 200
        assert (await old.post("s", b"", **CLOSED)).status_code == 204
        await other.delete("s")
        await other.put("s")
        assert (await old.post("s", b"b", **producer(0))).status_code == 200
        assert await old.text("s") == "b"


async def test_a_stream_that_has_expired_takes_nothing_and_its_path_is_free(
    serve: Serve,
) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await client.put("s", b"old", **{"Stream-TTL": "1000"})
        assert (await client.post("s", b"x")).status_code == 204
        await store.expire("s", 1e-6)
        assert refusal(await client.post("s", b"x")) == (404, "not_found")
        assert refusal(await client.get("s")) == (404, "not_found")
        assert (await client.put("s", b"new")).status_code == 201
        assert (await client.post("s", b"er")).status_code == 204
        assert await client.text("s") == "newer"


async def test_a_foreign_append_costs_one_more_call_and_nothing_else(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        one, two = await serve(store), await serve(store)
        await one.put("s")
        for _ in range(5):
            assert (await one.post("s", b"1")).status_code == 204
            assert (await two.post("s", b"2")).status_code == 204
        assert await one.text("s") == "12" * 5


async def test_two_processes_append_at_once_and_nothing_is_lost(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        clients = [await serve(store) for _ in range(3)]
        await clients[0].put("s", b"[]", **JSON)
        posts = [
            client.post("s", f"[{n},{n}]".encode(), **JSON)
            for n in range(40)
            for client in clients
        ]
        assert {each.status_code for each in await asyncio.gather(*posts)} == {204}
        found = (await clients[0].get("s")).json()
        assert found[::2] == found[1::2]
        assert sorted(found) == sorted([*range(40)] * 6)


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [("lost", 204, "a"), ("landed", 503, "a"), ("before", 503, "")],
)
async def test_an_append_in_doubt_is_repeated_only_if_it_cannot_double(
    serve: Serve, fault: str, status: int, text: str
) -> None:
    client = await serve(Faulty(fault))
    await client.put("s")
    response = await client.post("s", b"a")
    assert response.status_code == status
    if status == 503:
        code = "store_unavailable" if fault == "before" else "outcome_unknown"
        assert refusal(response) == (503, code)
        assert response.headers["retry-after"]
    assert await client.text("s") == text


async def test_an_append_in_doubt_twice_is_outcome_unknown(serve: Serve) -> None:
    client = await serve(Faulty("lost", "before"))
    await client.put("s")
    assert refusal(await client.post("s", b"a")) == (503, "outcome_unknown")
    assert await client.text("s") == ""
    assert (await client.post("s", b"b")).status_code == 204
    assert await client.text("s") == "b"


@pytest.mark.parametrize("faults", [["lost"], ["landed"], ["lost", "landed"], ["lost"] * 3])
async def test_an_append_of_a_producer_is_made_once_whatever_becomes_of_it(
    serve: Serve, faults: list[str]
) -> None:
    client = await serve(Faulty(*faults))
    await client.put("s")
    for seq in range(3):
        response = await client.post("s", b"%d" % seq, **producer(seq))
        assert response.status_code in (200, 204)
        assert response.headers["producer-seq"] == str(seq)
    assert await client.text("s") == "012"


async def test_a_doubt_that_cannot_be_resolved_is_outcome_unknown(serve: Serve) -> None:
    class Away(Faulty):
        async def info(self, stream_id: str) -> Any:
            if self.calls["append"]:
                raise OutcomeUnknown("still away")
            return await super().info(stream_id)

    client = await serve(Away("landed"))
    await client.put("s")
    assert refusal(await client.post("s", b"a", **producer(0))) == (503, "outcome_unknown")


async def test_a_producer_beyond_those_a_stream_can_remember_is_refused(serve: Serve) -> None:
    limits = Limits(attributes_bytes=2048)
    async with MemoryStreamStore(limits=limits) as store:
        client = await serve(store)
        await client.put("s")
        count = 0
        while True:
            response = await client.post("s", b"x", **producer(0, name=f"{count:0500}"))
            if response.status_code != 200:
                break
            count += 1
        assert refusal(response) == (429, "too_many_producers")
        assert 25 < count < 50
        assert (
            await client.post("s", b"x", **producer(1, name=f"{0:0500}"))
        ).status_code == 200
        assert (
            await client.post("s", b"x", **producer(0, name=f"{9:0500}"))
        ).status_code == 204
        assert await client.text("s") == "x" * (count + 1)


async def test_a_silent_producer_makes_room(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = 500_000
    monkeypatch.setattr("streamstores.http.durable.drafts.hour_now", lambda: hour)
    async with MemoryStreamStore(limits=Limits(attributes_bytes=2048)) as store:
        client = await serve(store, producer_memory=7200)
        await client.put("s")
        count = 0
        while (await client.post("s", b"x", **producer(0, name=f"{count}"))).is_success:
            count += 1
        hour += 3
        assert (await client.post("s", b"x", **producer(1, name="0"))).status_code == 200
        assert (await client.post("s", b"x", **producer(0, name="new"))).status_code == 200
        # The first producer has appended since, so the second is the oldest and was forgotten.
        assert (await client.post("s", b"x", **producer(0, name="0"))).status_code == 204
        assert (await client.post("s", b"x", **producer(0, name="1"))).status_code == 200


async def test_a_producer_that_begins_in_the_middle_has_a_gap(serve: Serve) -> None:
    client = await serve()
    await client.put("s")
    response = await client.post("s", b"x", **producer(3))
    assert refusal(response) == (409, "sequence_gap")
    assert response.headers["producer-expected-seq"] == "0"


async def test_a_body_over_the_limit_is_refused(serve: Serve) -> None:
    client = await serve(max_body_bytes=1000)
    await client.put("s")

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 100

    assert refusal(await client.post("s", b"x" * 1001)) == (413, "too_large")
    assert refusal(await client.post("s", endless())) == (413, "too_large")
    assert refusal(await client.put("t", b"x" * 1001)) == (413, "too_large")
    assert (await client.post("s", b"x" * 1000)).status_code == 204
    assert await client.text("s") == "x" * 1000


async def test_a_body_longer_than_a_record_is_one_append(serve: Serve) -> None:
    store = Watched()
    client = await serve(store)
    body = bytes(range(256)) * 10_000
    await client.put("s")
    assert (await client.post("s", body)).status_code == 204
    assert store.calls["append"] == 1
    first = await client.get("s")
    assert "stream-up-to-date" not in first.headers
    pages, offset = [first.content], first.headers["stream-next-offset"]
    while len(pages) < 3:
        page = await client.get("s", offset=offset)
        pages.append(page.content)
        offset = page.headers["stream-next-offset"]
    assert b"".join(pages) == body


async def test_messages_over_the_limits_of_an_append_are_refused(serve: Serve) -> None:
    async with MemoryStreamStore(limits=Limits(record_bytes=10, append_records=3)) as store:
        client = await serve(store)
        await client.put("s", b"", **JSON)
        assert refusal(await client.post("s", b"[1,2,3,4]", **JSON)) == (413, "too_large")
        assert refusal(await client.post("s", b'"0123456789"', **JSON)) == (413, "too_large")
        assert (await client.post("s", b"[1,2,3]", **JSON)).status_code == 204
        assert (await client.get("s")).json() == [1, 2, 3]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Stream-Seq": "x" * 257}, "invalid_seq"),
        ({"Producer-Id": "p"}, "invalid_producer"),
        ({**producer(0), "Producer-Id": "x" * 1025}, "invalid_producer"),
        ({**producer(0), "Producer-Seq": "9007199254740992"}, "invalid_producer"),
        (
            {**producer(0), "Producer-Epoch": "\u0661".encode().decode("latin-1")},
            "invalid_producer",
        ),
        ({"Content-Type": "nonsense"}, "invalid_content_type"),
        ({"Content-Type": ""}, "missing_content_type"),
    ],
)
async def test_invalid_headers_are_refused(
    serve: Serve, headers: dict[str, str], code: str
) -> None:
    client = await serve()
    await client.put("s")
    raw = [
        (name.encode(), value.encode("latin-1")) for name, value in {**TEXT, **headers}.items()
    ]
    response = await client.ask("POST", "s", content=b"x", headers=raw)
    assert refusal(response) == (400, code)
    assert await client.text("s") == ""


async def test_a_client_that_leaves_in_the_middle_of_its_body_appends_nothing(
    serve: Serve,
) -> None:
    client = await serve()
    await client.put("s")
    host, port = client.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /s HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n")
    writer.write(b"content-length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await client.post("s", b"whole")).status_code == 204
    assert await client.text("s") == "whole"


@pytest.mark.parametrize(
    "options", [{"max_body_bytes": 0}, {"max_body_bytes": 2**40}, {"long_poll_seconds": 0}]
)
async def test_invalid_settings_are_refused(options: dict[str, float]) -> None:
    async with MemoryStreamStore() as store:
        with pytest.raises(InvalidRequest):
            create_durable_streams_app(store, **options)  # type: ignore[arg-type]  # wrong values


async def test_every_refusal_has_cors_headers(serve: Serve) -> None:
    client: Client = await serve()
    response = await client.ask("PATCH", "s")
    assert refusal(response) == (405, "method_not_allowed")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-content-type-options"] == "nosniff"
    closed = await serve(allow_origin=None)
    assert "access-control-allow-origin" not in (await closed.get("s")).headers
