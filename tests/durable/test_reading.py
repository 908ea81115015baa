"""Reads: pages, caching and long-poll, and the streams that can be read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import MemoryStreamStore
from tests.durable.client import CLOSED, at, next_pair, refusal, until_reads
from tests.durable.conftest import Serve
from tests.wrapping import Counting, Wrapping

BYTES = {"Content-Type": "application/octet-stream"}


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
async def test_a_text_that_is_not_an_offset_is_refused(serve: Serve, offset: str) -> None:
    client = await serve()
    await client.put("s", b"x")
    assert refusal(await client.get("s", offset=offset)) == (400, "invalid_offset")


@pytest.mark.parametrize("live", [{}, {"live": "long-poll"}, {"live": "sse"}])
async def test_an_offset_beyond_the_tail_is_refused(serve: Serve, live: dict[str, str]) -> None:
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


async def test_a_response_may_be_cached_publicly_only_without_authorize(serve: Serve) -> None:
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


async def test_a_long_poll_ends_with_the_first_append(serve: Serve) -> None:
    store = Counting()
    client = await serve(store)
    await client.put("s", b"old")
    poll = asyncio.ensure_future(client.get("s", offset="now", live="long-poll"))
    await until_reads(store, 1)  # the follower's: the tail is asked for, not read
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
    await until_reads(store, 2)
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
    await until_reads(store, 40)
    await client.post("s", b"x")
    assert {(await poll).text for poll in polls} == {"x"}
    assert store.calls["read"] < 40 + 5


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


@pytest.mark.parametrize("query", [{}, {"offset": "now"}, {"offset": "-1", "live": "sse"}])
async def test_a_page_that_a_client_stored_may_run_no_script(
    serve: Serve, query: dict[str, str]
) -> None:
    client = await serve(allow_origin=None)
    html = {"Content-Type": "text/html", **CLOSED}
    assert (await client.put("s", b"<script>", **html)).status_code == 201
    response = await client.get("s", **query)
    assert response.headers["content-security-policy"] == "sandbox"


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
async def test_paths_that_cannot_be_streams_are_refused(
    serve: Serve, path: str, expected: tuple[int, str]
) -> None:
    client = await serve()
    assert refusal(await client.put(path)) == expected


async def test_a_refused_client_learns_nothing(serve: Serve) -> None:
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
