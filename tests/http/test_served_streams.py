"""`ServedStreams`, which the chat handler and `ResumableStreams` are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamstores import MemoryStreamStore, State
from streamstores.http import ResumableStreams
from streamstores.http._asgi.event_stream import event_stream
from streamstores.http.resumable.served_streams import ServedStreams, touch
from streamstores.runs import Runs


@pytest.fixture
async def store() -> AsyncIterator[MemoryStreamStore]:
    async with MemoryStreamStore() as store:
        yield store


@pytest.fixture
async def streams(store: MemoryStreamStore) -> AsyncIterator[ServedStreams]:
    streams = ServedStreams(Runs(store), event_stream(60.0, 15.0))
    yield streams
    await streams.hand_over()


async def test_only_the_last_reader_of_a_stream_is_reported_as_the_last(store, streams):
    info = await store.create("a", b"x", state=State.DONE)
    other = streams.open_reader(await store.create("b"), 0)
    first, second = streams.open_reader(info, 0), streams.open_reader(info, 0)
    assert streams.activity("a") == (2, False)
    assert not await streams.close_reader(first)
    assert await streams.close_reader(second)
    assert (streams.activity("a").followers, streams.activity("b").followers) == (0, 1)
    await streams.close_reader(other)


async def test_a_reader_is_counted_out_when_its_closing_is_cancelled(
    store, streams, monkeypatch
):
    reader = streams.open_reader(await store.create("a"), 0)
    monkeypatch.setattr(reader, "aclose", asyncio.Event().wait)
    closing = asyncio.ensure_future(streams.close_reader(reader))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert streams.activity("a").followers == 0


async def test_nothing_is_kept_of_the_streams_that_were_sent(store):
    sent: list[bytes] = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message.get("body", b""))

    async with ResumableStreams(store, watch_signals=False) as streams:
        for number in range(3):
            response = await streams.response(str(number), [{"text": "hi"}])
            await response({"type": "http", "method": "GET", "headers": []}, receive, send)
            assert b"".join(sent).count(b'{"text": "hi"}') == number + 1
        assert len(streams._streams._readers) == 0


async def test_a_touch_restarts_the_ttl_and_leaves_a_stream_without_one_alone(store):
    forever = await store.create("forever")
    assert await touch(store, forever) is forever
    info = await store.create("a", ttl=60)
    while (touched := await touch(store, info)).expires_at == info.expires_at:
        await asyncio.sleep(0.01)
    assert touched.expires_at > info.expires_at
