"""Races that the server alone decides: one writer of many wins, every time.

`STREAMSTORES_RACES=200` runs as many of each kind, on any server (`STREAMSTORES_TEST_S3`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from streamstores import Conflict, S3StreamStore, StreamClosed, StreamExists, StreamNotFound
from tests.s3.conftest import Place

pytestmark = pytest.mark.long

RACES = int(os.environ.get("STREAMSTORES_RACES", "5"))
RACERS = 32
STORES = 4
PAST = datetime(2001, 2, 3, tzinfo=timezone.utc)

Call = Callable[[S3StreamStore, str, int], Awaitable[Any]]

# How the stream begins, what every writer calls, and the errors that the losers may get.
KINDS: dict[str, tuple[dict[str, Any] | None, Call, tuple[type[Exception], ...]]] = {
    "create": (None, lambda store, key, n: store.create(key, b"%02d" % n), (StreamExists,)),
    "create over an expired stream": (
        {"expires_at": PAST},
        lambda store, key, n: store.create(key, b"%02d" % n),
        (StreamExists,),
    ),
    "append at an offset": (
        {},
        lambda store, key, n: store.append(key, b"%02d" % n, at=0),
        (Conflict,),
    ),
    "append the last word": (
        {},
        lambda store, key, n: store.append(key, b"%02d" % n, state="done"),
        (StreamClosed,),
    ),
    "delete": ({}, lambda store, key, n: store.delete(key), (StreamNotFound,)),
    "delete of a finished stream": (
        {"state": "done"},
        lambda store, key, n: store.delete(key),
        (StreamNotFound,),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_one_writer_wins_a_race(place: Place, kind: str) -> None:
    before, call, lost = KINDS[kind]
    stores = [await place.store() for _ in range(STORES)]
    for number in range(RACES):
        key = f"a{number}"
        if before is not None:
            await stores[0].create(key, **before)
            await stores[0]._packer.idle()
        tries = [call(stores[n % STORES], key, n) for n in range(RACERS)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        winners = [n for n, each in enumerate(results) if not isinstance(each, BaseException)]
        assert len(winners) == 1, results
        assert all(isinstance(each, lost) for each in results if isinstance(each, Exception))
        if "delete" in kind:
            with pytest.raises(StreamNotFound):
                await stores[1].info(key)
        else:
            records = (await stores[1].read(key)).records
            assert [record.data for record in records] == [b"%02d" % winners[0]]


async def test_a_stop_gets_in_beside_a_writer_that_never_pauses(place: Place) -> None:
    """The writer knows its own last segment; the other has to read it before each try."""
    writer, other = await place.store(), await place.store()
    await writer.create("a")
    await other.info("a")

    async def write() -> None:
        while True:
            await writer.append("a", b"x")

    writing = asyncio.create_task(write())
    try:
        info = await other.mark_done("a", "stopped")
        with pytest.raises(StreamClosed):
            await writing
        assert info.state == "stopped"
        assert await writer.info("a") == info
    finally:
        writing.cancel()
