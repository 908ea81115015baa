"""Live reads as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from streamstores.http import create_durable_streams_app
from tests.durable.client import CLOSED, JSON, Client, at, next_pair, refusal, until_reads
from tests.durable.conftest import Serve
from tests.http.serving import serving
from tests.wrapping import Counting

BYTES = {"Content-Type": "application/octet-stream"}


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


async def test_concurrent_readers_get_the_same(serve: Serve) -> None:
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
                await until_reads(store, 4)
                await app.aclose()
                assert await events.rest() == []
            assert (await poll).status_code == 204
            assert refusal(await client.get("s")) == (503, "store_unavailable")


@asynccontextmanager
async def frozen(client: Client, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client that asks for events and does not read them."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET /{path}?offset=-1&live=sse HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()


async def test_a_frozen_reader_delays_no_other_and_misses_nothing(serve: Serve) -> None:
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
