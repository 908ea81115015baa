"""Reading: pages, caching, long-poll and server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from streamstores import MemoryStreamStore
from streamstores.http import create_durable_streams_app
from tests.durable.client import CLOSED, JSON, Client, at, refusal
from tests.durable.conftest import Serve
from tests.http.serving import Events, serving
from tests.wrapping import Counting, Wrapping

BYTES = {"Content-Type": "application/octet-stream"}


async def next_pair(events: Events) -> tuple[str | None, dict[str, Any]]:
    """The next data, if there is some, and the control event behind it."""
    event = await anext(events)
    if event.name == "control":
        return None, json.loads(event.data)
    assert event.name == "data"
    control = await anext(events)
    assert control.name == "control"
    return event.data, json.loads(control.data)


async def test_offsets_sort_as_the_positions_do(serve: Serve) -> None:
    client = await serve()
    await client.put("s")
    offsets = [
        (await client.post("s", b"x" * size)).headers["stream-next-offset"]
        for size in (1, 9, 90, 900)
    ]
    assert offsets == sorted(offsets) == [at(1), at(10), at(100), at(1000)]


@pytest.mark.parametrize(
    "offset", ["0", "1_1", f"{at(1)} ", "NOW", "-2", "\u0661" * 16 + "_" + "1" * 16]
)
async def test_what_is_no_offset(serve: Serve, offset: str) -> None:
    client = await serve()
    await client.put("s", b"x")
    assert refusal(await client.get("s", offset=offset)) == (400, "invalid_offset")


@pytest.mark.parametrize("live", [{}, {"live": "long-poll"}, {"live": "sse"}])
async def test_an_offset_beyond_the_tail(serve: Serve, live: dict[str, str]) -> None:
    client = await serve()
    await client.put("s", b"x")
    for offset in (at(2), "9" * 16 + "_" + "9" * 16):
        response = await client.get("s", offset=offset, **live)
        assert refusal(response) == (400, "offset_out_of_range")


async def test_a_read_is_one_call(serve: Serve) -> None:
    store = Counting()
    client = await serve(store)
    await client.put("s", b"x")
    assert (await client.get("s")).text == "x"
    assert (await client.get("s", offset="-1", live="long-poll")).text == "x"
    assert store.calls == {"read": 2}


async def test_an_answer_is_cached_by_all_or_by_one_reader(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        for options, scope in (({}, "public"), ({"authorize": lambda *_: True}, "private")):
            client = await serve(store, **options)
            await client.put("s", b"x")
            cached = (await client.get("s")).headers["cache-control"]
            assert cached == f"{scope}, max-age=60, stale-while-revalidate=300"
            assert (await client.get("s", offset=at(1))).headers["cache-control"] == "no-cache"
            assert (await client.get("s", offset="now")).headers["cache-control"] == "no-store"


async def test_an_etag_is_not_that_of_a_namesake_nor_of_the_closed_stream(serve: Serve) -> None:
    client = await serve()

    async def etag() -> str:
        response: str = (await client.get("s")).headers["etag"]
        return response

    await client.put("s", b"x")
    first = await etag()
    for given in (first, f'"other", W/{first}', "*"):
        response = await client.ask("GET", "s", headers={"If-None-Match": given})
        assert (response.status_code, response.content) == (304, b"")
    await client.post("s", **CLOSED)
    second = await etag()
    await client.delete("s")
    await client.put("s", b"x")
    assert len({first, second, await etag()}) == 3


async def reads(store: Counting, count: int) -> None:
    """Until there were so many; who waits has read twice."""
    while store.calls["read"] < count:
        await asyncio.sleep(0.001)


async def test_a_long_poll_ends_with_the_first_append(serve: Serve) -> None:
    store = Counting()
    client = await serve(store)
    await client.put("s", b"old")
    poll = asyncio.ensure_future(client.get("s", offset="now", live="long-poll"))
    await reads(store, 1)  # the follower's: the tail is asked for, not read
    await client.post("s", b"new")
    response = await poll
    assert (response.status_code, response.text) == (200, "new")
    assert response.headers["stream-next-offset"] == at(6)
    assert response.headers["stream-up-to-date"] == "true"
    assert int(response.headers["stream-cursor"]) > 0


async def test_a_long_poll_without_anything_new_ends_with_204(serve: Serve) -> None:
    client = await serve(long_poll_seconds=0.05)
    await client.put("s", b"old")
    response = await client.get("s", offset=at(3), live="long-poll", cursor="999999999")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["stream-next-offset"] == at(3)
    assert response.headers["stream-up-to-date"] == "true"
    assert int(response.headers["stream-cursor"]) > 999999999
    assert "stream-closed" not in response.headers


@pytest.mark.parametrize(("change", "status"), [("close", 204), ("delete", 404)])
async def test_a_long_poll_ends_with_the_stream(serve: Serve, change: str, status: int) -> None:
    store = Counting()
    client = await serve(store)
    await client.put("s")
    poll = asyncio.ensure_future(client.get("s", offset=at(0), live="long-poll"))
    await reads(store, 2)
    if change == "close":
        await client.post("s", **CLOSED)
    else:
        await client.delete("s")
    response = await poll
    assert response.status_code == status
    assert response.headers.get("stream-closed") == ("true" if change == "close" else None)


async def test_readers_that_wait_share_their_reads(serve: Serve) -> None:
    store = Counting()
    client = await serve(store)
    await client.put("s")
    polls = [
        asyncio.ensure_future(client.get("s", offset=at(0), live="long-poll"))
        for _ in range(20)
    ]
    await reads(store, 40)
    await client.post("s", b"x")
    assert {(await poll).text for poll in polls} == {"x"}
    assert store.calls["read"] < 40 + 5


async def test_events_of_text_json_and_bytes(serve: Serve) -> None:
    client = await serve()
    await client.put("text", b" two\n lines")
    await client.put("json", b' [1.0, {"a": "\\u00e9"} ,12345678901234567890]', **JSON)
    await client.put("bytes", b"\x00\xff", **BYTES)
    async with client.live("text") as events:
        assert "stream-sse-data-encoding" not in events.response.headers
        data, control = await next_pair(events)
        assert data == " two\n lines"
        assert control["streamNextOffset"] == at(11)
        assert control["upToDate"] is True
    async with client.live("json") as events:
        assert (await next_pair(events))[0] == '[1.0,{"a": "\\u00e9"},12345678901234567890]'
    async with client.live("bytes") as events:
        assert events.response.headers["stream-sse-data-encoding"] == "base64"
        data, _ = await next_pair(events)
        assert base64.b64decode(data or "") == b"\x00\xff"


async def test_events_go_on_to_the_close(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"a")
    async with client.live("s", "now") as events:
        data, control = await next_pair(events)
        assert (data, control["streamNextOffset"]) == (None, at(1))
        await client.post("s", b"b")
        data, control = await next_pair(events)
        assert (data, control["streamNextOffset"]) == ("b", at(2))
        assert control["upToDate"] is True
        await client.post("s", b"c", **CLOSED)
        assert await next_pair(events) == (
            "c",
            {"streamNextOffset": at(3), "streamClosed": True, "upToDate": True},
        )
        assert await events.rest() == []


async def test_events_of_a_closed_stream_end_at_once(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"a", **CLOSED)
    for offset, data in (("-1", "a"), (at(1), None), ("now", None)):
        async with client.live("s", offset) as events:
            assert await next_pair(events) == (
                data,
                {"streamNextOffset": at(1), "streamClosed": True, "upToDate": True},
            )
            assert await events.rest() == []


async def test_a_character_in_pieces_is_sent_when_it_is_whole(serve: Serve) -> None:
    client = await serve()
    letters = "a\u00e9\u20ac\U0001f600z".encode()
    await client.put("s", letters[:2])
    async with client.live("s") as events:
        text, control = await next_pair(events)
        assert (text, control["streamNextOffset"]) == ("a", at(1))
        assert "upToDate" not in control
        for n in range(2, len(letters)):
            await client.post("s", letters[n : n + 1])
        while control["streamNextOffset"] != at(len(letters)):
            data, control = await next_pair(events)
            text = (text or "") + (data or "")
            end = int(control["streamNextOffset"][17:])
            assert text.encode() == letters[:end]  # where it may be taken up again
        assert control["upToDate"] is True


async def test_the_beginning_of_a_character_is_sent_when_nothing_more_comes(
    serve: Serve,
) -> None:
    client = await serve()
    await client.put("s", "\u20ac".encode()[:2], **CLOSED)
    response = await client.get("s", offset="-1", live="sse")
    assert b"event: data\ndata:\xe2\x82\n\n" in response.content
    assert b'"streamClosed":true' in response.content


async def test_readers_beside_each_other_get_the_same(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"[0]", **JSON)

    async def read(offset: str) -> list[int]:
        numbers: list[int] = []
        async with client.live("s", offset) as events:
            control: dict[str, Any] = {}
            while "streamClosed" not in control:
                data, control = await next_pair(events)
                numbers += json.loads(data or "[]")
        return numbers

    readers = [asyncio.ensure_future(read(offset)) for offset in ["-1"] * 8 + [at(1)] * 4]
    for n in range(1, 100):
        await client.post("s", b"%d" % n, **JSON)
    await client.post("s", **CLOSED)
    found = await asyncio.gather(*readers)
    assert found == [[*range(100)]] * 8 + [[*range(1, 100)]] * 4


async def test_events_end_after_a_time_and_go_on_from_there(serve: Serve) -> None:
    client = await serve(live_seconds=0.1)
    await client.put("s", b"a")
    async with client.live("s") as events:
        _, control = await next_pair(events)
        assert await events.rest() == []
    cursor = control["streamCursor"]
    await client.post("s", b"b")
    async with client.live("s", control["streamNextOffset"], cursor=cursor) as events:
        data, control = await next_pair(events)
        assert data == "b"
        assert int(control["streamCursor"]) > int(cursor)


async def test_events_end_when_the_stream_is_deleted(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"a")
    async with client.live("s") as events:
        await next_pair(events)
        await client.delete("s")
        assert await events.rest() == []
    response = await client.get("s", offset=at(1), live="sse")
    assert refusal(response) == (404, "not_found")


async def test_the_end_of_the_server_ends_live_answers() -> None:
    async with Counting() as store, httpx.AsyncClient() as http:
        app = create_durable_streams_app(store)
        async with serving(app, lifespan="off") as url:
            client = Client(url, http)
            await client.put("s", b"a")
            poll = asyncio.ensure_future(client.get("s", offset=at(1), live="long-poll"))
            async with client.live("s") as events:
                await next_pair(events)
                await reads(store, 4)
                await app.aclose()
                assert await events.rest() == []
            assert (await poll).status_code == 204
            assert refusal(await client.get("s")) == (503, "store_unavailable")


@asynccontextmanager
async def frozen(client: Client, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A reader of events that does not read."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET /{path}?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()


async def test_a_frozen_reader_holds_up_nobody_and_misses_nothing(serve: Serve) -> None:
    client = await serve()
    await client.put("s")
    chunk = b"y" * 99_999 + b"\n"
    async with frozen(client, "s") as reader:
        await reader.readuntil(b"upToDate")
        for _ in range(200):
            assert (await client.post("s", chunk)).status_code == 204
        await client.post("s", **CLOSED)
        assert len(await client.text("s")) == 20_000_000
        received = 0
        while data := await reader.read(1_000_000):
            received += data.count(b"y")  # which no control event has
            if b"streamClosed" in data:
                break
        assert received == 200 * 99_999


async def test_a_reader_keeps_a_stream_whose_ttl_is_short(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"a", **{"Stream-TTL": "2"})
    await client.put("idle", b"a", **{"Stream-TTL": "2"})
    async with client.live("s") as events:
        await next_pair(events)
        while (await client.head("idle")).status_code == 200:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert (await client.post("s", b"b")).status_code == 204
        assert (await next_pair(events))[0] == "b"


@pytest.mark.parametrize("ttl", [{}, {"Stream-TTL": "50"}])
async def test_a_read_never_changes_when_a_namesake_ends(
    serve: Serve, ttl: dict[str, str]
) -> None:
    class Overtaken(Wrapping):
        overtaking: Any = None

        async def expire(self, stream_id: str, ttl: float | None = None, **options: Any) -> Any:
            overtaking, self.overtaking = self.overtaking, None
            if overtaking is not None:
                await overtaking()
            return await super().expire(stream_id, ttl, **options)

    async with MemoryStreamStore() as inner:
        store = Overtaken(inner)
        client, other = await serve(store), await serve(inner)
        await client.put("s", b"old", **{"Stream-TTL": "9"})

        async def overtaking() -> None:
            await other.delete("s")
            await other.put("s", b"new", **ttl)

        store.overtaking = overtaking
        assert (await client.get("s")).text == "old"
        assert (await inner.info("s")).ttl == (50 if ttl else None)
        assert ((await inner.info("s")).expires_at is None) is (not ttl)


async def test_a_stream_of_another_writer_can_be_read(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await store.create("s", b"abc", b"d")
        response = await client.get("s")
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.content == b"abcd"
        await store.mark_done("s", "error", error="why")
        assert (await client.head("s")).headers["stream-closed"] == "true"


IDS = [
    "a/b/c",
    "\U0001f600",
    "100%",
    "%2F",
    "a b",
    "...",
    "..a/..b",
    "{a}*'\"",
    "a//b",
    "stream.js",
]


@pytest.mark.parametrize("stream_id", IDS)
async def test_any_path_is_a_stream(serve: Serve, stream_id: str) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        path = "".join(f"%{byte:02X}" for byte in stream_id.encode())
        created = await client.put(path, b"x")
        assert created.status_code == 201
        assert (await store.info(stream_id)).tail == 1
        again = created.headers["location"].removeprefix(client.url)[1:]
        assert (await client.text(again)) == "x"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", (400, "invalid_id")),
        ("a%0Ab", (400, "invalid_id")),
        ("x" * 256, (400, "invalid_id")),
        ("__ds/subscriptions/x", (404, "reserved_path")),
        ("__ds", (404, "reserved_path")),
    ],
)
async def test_paths_that_are_no_streams(
    serve: Serve, path: str, expected: tuple[int, str]
) -> None:
    client = await serve()
    assert refusal(await client.put(path)) == expected


async def test_whoever_may_not_learns_nothing(serve: Serve) -> None:
    asked: list[tuple[str, str]] = []

    async def authorize(request: Any, stream_id: str, action: str) -> bool:
        asked.append((stream_id, action))
        user: str = request.headers.get("authorization", "")
        return stream_id.startswith(f"{user}/") and action != "delete"

    async with MemoryStreamStore() as store:
        client = await serve(store, authorize=authorize)
        ann = {"Authorization": "ann"}
        assert (await client.put("ann/s", b"x", **ann)).status_code == 201
        assert (await client.put("bob/s", b"x", Authorization="bob")).status_code == 201
        asked.clear()
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            for path in ("bob/s", "bob/none"):
                response = await client.ask(method, path, headers=ann, content=b"y")
                assert response.status_code == 403
        response = await client.ask("DELETE", "ann/s", headers=ann)
        assert refusal(response) == (403, "forbidden")
        response = await client.fork("ann/fork", "bob/s", **ann)
        assert refusal(response) == (403, "forbidden")
        assert asked[:8:2] == [
            ("bob/s", "read"),
            ("bob/s", "read"),
            ("bob/s", "append"),
            ("bob/s", "create"),
        ]
        assert asked[-2:] == [("ann/fork", "create"), ("bob/s", "read")]
        assert {info.id async for info in store.list()} == {"ann/s", "bob/s"}
