"""Readers that come before their stream: a queued task will start it, in another process."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from fastapi import FastAPI, Request

from streamstores import InvalidRequest, SQLiteStreamStore, StoreUnavailable, StreamNotFound
from streamstores.http import ResumableStreams
from tests.http.serving import serving
from tests.services import PATIENCE

LONG = 600.0


@pytest.fixture
async def pair(tmp_path):
    """The streams of two processes on one file: of the reader, and of the task."""
    path = tmp_path / "streams.db"
    async with SQLiteStreamStore(path) as one, SQLiteStreamStore(path) as two:
        async with ResumableStreams(one) as here, ResumableStreams(two) as elsewhere:
            yield here, elsewhere


async def source():
    yield "data: 1\n\n"
    yield "data: 2\n\n"


async def begun(waiting):
    """A task that has asked the store, found nothing, and waits."""
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.1)
    assert not task.done()
    return task


async def test_a_replay_waits_for_the_stream_and_sends_all_of_it(pair):
    here, elsewhere = pair
    app = FastAPI()

    @app.get("/answer")
    async def read(request: Request):
        return await here.replay("s", request, wait_for_create=LONG)

    async with serving(app) as url, httpx.AsyncClient(timeout=PATIENCE) as client:
        waiting = await begun(client.get(f"{url}/answer"))
        await elsewhere.start("s", source())
        assert (await waiting).text == "id: 9\ndata: 1\n\nid: 18\ndata: 2\n\n"


async def test_so_do_its_info_its_body_and_its_records(pair):
    here, elsewhere = pair

    async def all_of(iterator):
        return [each async for each in iterator]

    info = await begun(here.info("s", wait_for_create=LONG))
    body = await begun(all_of(here.body("s", wait_for_create=LONG)))
    records = await begun(all_of(here.follow("s", wait_for_create=LONG)))
    await elsewhere.start("s", source())
    assert (await info).id == "s"
    assert b"".join(await body) == b"id: 9\ndata: 1\n\nid: 18\ndata: 2\n\n"
    assert [record.data for record in await records] == [b"data: 1\n\n", b"data: 2\n\n"]


async def test_it_waits_no_longer_than_asked(pair):
    here, _ = pair
    begin = time.monotonic()
    response = await here.replay("s", wait_for_create=0.2)
    assert time.monotonic() - begin >= 0.2
    assert response.status_code == 404
    assert (await here.replay("s", wait_for_create=0.01, missing_status=204)).status_code == 204
    with pytest.raises(StreamNotFound):
        await here.info("s", wait_for_create=0.01)


async def test_closing_ends_the_wait_with_503(pair):
    here, _ = pair
    replay = await begun(here.replay("s", wait_for_create=LONG))
    info = await begun(here.info("s", wait_for_create=LONG))
    await here.aclose()
    assert (await replay).status_code == 503
    with pytest.raises(StoreUnavailable):
        await info


async def test_a_cancelled_wait_leaves_no_task(pair):
    here, _ = pair
    before = asyncio.all_tasks()
    waiting = await begun(here.info("s", wait_for_create=LONG))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    while asyncio.all_tasks() - before:
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "soon"])
async def test_seconds_that_are_none_are_refused(pair, seconds):
    here, _ = pair
    with pytest.raises(InvalidRequest, match="wait_for_create"):
        await here.info("s", wait_for_create=seconds)
    assert (await here.replay("s", wait_for_create=seconds)).status_code == 400
