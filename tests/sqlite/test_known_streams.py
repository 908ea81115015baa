"""What the writing connection knows without a query, while other processes write too."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamstores import (
    Conflict,
    Limits,
    SQLiteStreamStore,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.backends._sqlite.transactions import CROWD

NO_POLL = Limits(poll_interval=1_000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStreamStore]:
    async with SQLiteStreamStore(path, limits=NO_POLL) as store:
        yield store


@pytest.fixture
async def other(path: Path) -> AsyncIterator[SQLiteStreamStore]:
    """It shares nothing with `store` but the file, as if it were in another process."""
    async with SQLiteStreamStore(path, limits=NO_POLL, readers=1) as store:
        yield store


async def statements_of(store: SQLiteStreamStore, call: Callable[[], Awaitable[object]]):
    """The first two words of each statement that the writing connection ran for a call."""
    traced: list[str] = []
    writer = store._connections.writer
    await writer.submit(lambda connection: connection.set_trace_callback(traced.append))
    await call()
    await writer.submit(lambda connection: connection.set_trace_callback(None))
    return [" ".join(statement.split()[:2]) for statement in traced]


ONE_APPEND = [
    "BEGIN IMMEDIATE",
    "PRAGMA data_version",
    "UPDATE streamstores_streams",
    "INSERT INTO",
    "COMMIT",
]


async def test_a_known_stream_costs_no_query(store):
    await store.create("a", ttl=60)
    assert await statements_of(store, lambda: store.append("a", b"1")) == ONE_APPEND
    assert await statements_of(store, lambda: store.append("a", b"2", at=1)) == ONE_APPEND


async def test_a_refused_append_needs_no_statement_of_its_own(store):
    await store.create("a", b"1")

    async def refused() -> None:
        with pytest.raises(Conflict):
            await store.append("a", b"2", at=0)

    expected = ["BEGIN IMMEDIATE", "PRAGMA data_version", "COMMIT"]
    assert await statements_of(store, refused) == expected


async def test_after_a_commit_elsewhere_everything_is_queried_again_once(store, other):
    await store.create("a")
    await store.append("a", b"1")
    await other.append("a", b"2")
    statements = await statements_of(store, lambda: store.append("a", b"3"))
    assert statements.count("SELECT number,") == 1
    assert statements.count("SELECT key,") == 1
    assert await statements_of(store, lambda: store.append("a", b"4")) == ONE_APPEND
    page = await other.read("a")
    assert b"".join(record.data for record in page.records) == b"1234"


async def test_a_plain_append_leaves_the_other_columns_as_another_process_set_them(
    store, other
):
    await store.create("a")
    await store.append("a", b"1")
    end = datetime.now(timezone.utc) + timedelta(hours=1)
    await other.append("a", attributes={"by": "other"})
    await other.expire("a", expires_at=end)
    info = await store.append("a", b"2")
    assert (info.attributes, info.expires_at) == ({"by": "other"}, end)
    assert info == await other.info("a")


async def test_a_stream_that_another_process_ended_is_not_taken_for_living(store, other):
    for stream_id in ("stopped", "deleted", "expired", "anew"):
        await store.create(stream_id, b"1")
    await other.append("stopped", state="stopped")
    await other.delete("deleted")
    await other.expire("expired", expires_at=datetime.now(timezone.utc))
    old = await store.info("anew")
    await other.delete("anew")
    await other.create("anew", b"namesake")
    with pytest.raises(StreamClosed):
        await store.append("stopped", b"2")
    for stream_id in ("deleted", "expired"):
        with pytest.raises(StreamNotFound):
            await store.append(stream_id, b"2")
    with pytest.raises(Conflict):
        await store.append("anew", b"2", version=old.version)
    assert (await store.append("anew", b"2")).tail == len(b"namesake2")


async def test_a_known_stream_expires_at_its_time(store):
    await store.create("a", b"1")
    await store.expire("a", ttl=0.001)
    with pytest.raises(StreamNotFound):
        while True:
            await store.info("a")
    with pytest.raises(StreamNotFound):
        await store.append("a", b"2")


async def test_a_transaction_that_failed_is_not_known(store, path):
    """The transaction is rolled back after the row was written, so the known row is wrong."""
    before = await store.create("a", b"1")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON streamstores_records"
            " WHEN new.data = x'32' BEGIN SELECT raise(ABORT, 'disk full'); END"
        )
    with pytest.raises(Exception, match="disk full"):
        await store.append("a", b"2")
    assert await store.append("a", b"3", version=before.version, at=1)
    assert (await store.read("a")).info.tail == 2


async def test_attributes_of_an_info_cannot_be_changed_under_the_store(store, other):
    await store.create("a", attributes={"k": "v"})
    await other.append("a", b"1")
    info = await store.append("a", b"2")
    with pytest.raises(TypeError):
        info.attributes["k"] = "changed"  # type: ignore[index] # the test is about this


async def test_more_streams_than_are_known_lose_nothing(store, monkeypatch):
    monkeypatch.setattr("streamstores.backends._sqlite.transactions._MAX_KNOWN", 2)
    ids = [f"s{number}" for number in range(5)]
    for stream_id in ids:
        await store.create(stream_id)
    for stream_id in ids * 2:
        await store.append(stream_id, b"x")
    assert [info.tail async for info in store.list()] == [2] * 5


async def test_a_watcher_hears_of_every_change_of_the_stream_that_changed_last(store, other):
    info = await store.create("a")
    with other.changes.subscribe("a"):  # the watcher does not begin anew between the waits
        for _ in range(5):
            heard = asyncio.create_task(other.wait("a", version=info.version, timeout=10))
            await watched(other, "a")
            await follow_on(store, other)
            info = await store.append("a", b"x")
            assert (await heard).version == info.version


async def test_a_watcher_hears_of_a_stream_after_many_others_have_changed(store, other):
    first = await store.create("a")
    await take_numbers(store)
    heard = asyncio.create_task(other.wait("a", version=first.version, timeout=10))
    await watched(other, "a")
    info = await store.append("a", b"x")
    assert (await heard).version == info.version


async def test_a_watcher_hears_of_changes_after_the_newest_stream_was_swept(store, other):
    """The swept stream was the last to change, and watchers are not told of the sweep."""
    first = await store.create("a")
    await take_numbers(store)
    await store.create("newest", ttl=0.001)
    heard = asyncio.create_task(other.wait("a", version=first.version, timeout=10))
    await watched(other, "a")
    await follow_on(store, other)
    while "newest" in ids(store._options.path):  # the store sweeps by itself too
        await store.sweep()
    info = await store.append("a", b"x")
    assert (await heard).version == info.version


def ids(path: str) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT id FROM streamstores_streams"
        return {stream_id for (stream_id,) in connection.execute(sql)}


async def take_numbers(store: SQLiteStreamStore) -> None:
    for number in range(2 * CROWD):
        await store.create(f"crowd-{number}")


async def test_a_watcher_reports_each_change_once(store, other):
    """The latest streams are looked at after each commit, though not all have changed."""
    heard: list[tuple[str, int]] = []
    await store.create("quiet")
    busy = await store.create("busy")
    with other.changes.subscribe("quiet"), other.changes.subscribe("busy"):
        await follow_on(store, other)  # the first look reports that anything may have changed
        await follow_on(store, other)
        on_changes = other._on_file_changes

        def listen(changes):
            heard.extend(changes.versions)
            on_changes(changes)

        other._watcher._on_changes = lambda: listen
        for _ in range(3):
            await store.append("busy", b"x")
            await follow_on(store, other)
    assert [change for change in heard if change[0] == "quiet"] == []
    assert ("busy", busy.version + 3) in heard
    assert len(set(heard)) == len(heard)


async def test_busy_streams_share_one_number_and_a_crowd_gets_another(store, path):
    for number in range(CROWD // 2):
        await store.create(f"s{number}")
    before = numbers(path)
    for number in range(CROWD // 2):
        await store.append(f"s{number}", b"x")
    assert numbers(path) == before == [2] * (CROWD // 2)
    for number in range(CROWD):
        await store.create(f"t{number}")
    after = numbers(path)
    assert max(after) == 3
    assert max(map(after.count, after)) <= CROWD


async def test_processes_that_come_and_go_leave_no_crowd_behind(path):
    """A process knows only its own streams, so it begins with a number of its own."""
    for number in range(3):
        async with SQLiteStreamStore(path) as store:
            await store.create(f"s{number}")
    assert numbers(path) == [2, 3, 4]


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT changed FROM streamstores_streams ORDER BY key"
        return [number for (number,) in connection.execute(sql)]


async def follow_on(store: SQLiteStreamStore, other: SQLiteStreamStore) -> None:
    """Wait until the watcher of `other` has seen all that `store` committed so far."""
    with suppress(StreamExists):
        await store.create("beacon")
    info = await store.info("beacon")
    heard = asyncio.create_task(other.wait("beacon", version=info.version, timeout=10))
    await watched(other, "beacon")
    await store.append("beacon", b"x")
    await heard


async def watched(store: SQLiteStreamStore, stream_id: str) -> None:
    """Wait until a `wait` for the stream has made its query and sleeps."""
    while stream_id not in store.changes.subscribed_ids:
        await asyncio.sleep(0)
    await store.info(stream_id)  # with one reader, this runs after the query of the wait


async def test_closing_a_store_commits_queued_mutations_first(path):
    store = SQLiteStreamStore(path)
    await store.create("a")
    appends = [asyncio.create_task(store.append("a", b"x")) for _ in range(1_000)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [(await append).tail for append in appends] == list(range(1, 1_001))
