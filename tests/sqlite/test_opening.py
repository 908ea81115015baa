"""Opening and closing a store: URLs, forks, callers that give up, and its warnings."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import aiosqlite
import pytest

from streamstores import InvalidRequest, SQLiteStreamStore, StoreUnavailable, follow
from streamstores.backends._sqlite import database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


def test_a_process_that_never_closes_its_store_can_end(path):
    script = (
        "import asyncio, sys; from streamstores import SQLiteStreamStore\n"
        "store = SQLiteStreamStore(sys.argv[1])\n"
        "asyncio.run(store.create('a'))\n"
    )
    run = subprocess.run([sys.executable, "-c", script, path], timeout=30, check=False)
    assert run.returncode == 0


async def test_an_unclosed_store_warns(path):
    before = threading.enumerate()
    store = SQLiteStreamStore(path)
    await store.create("a")
    threads = [
        each
        for each in threading.enumerate()
        if each not in before and not each.name.startswith("asyncio")
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        gc.collect()
    assert any("SQLiteStreamStore" in str(warning.message) for warning in caught)
    assert len(threads) >= 4
    if hasattr(aiosqlite.Connection, "stop"):  # before 0.22 its threads, daemons, stay
        for thread in threads:
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://host/x.db",
        "sqlite:///:memory:",
        "sqlite:///x.db?durability=none",
        "sqlite:///x.db?busy_timeout=soon",
        "sqlite:///x.db?busy_timeout=-1",
        "sqlite:///x.db?readers=0",
        "sqlite:///x.db?watch_interval=0",
        "sqlite:///x.db?cache=shared",
        "sqlite:///x.db?readers=1&readers=2",
        "sqlite:///x.db?durability",
        "sqlite:///a#1.db",
        "sqlite:///a%00.db",
    ],
)
def test_a_wrong_url_is_refused(url):
    for make in (SQLiteStreamStore.from_url, SQLiteStreamStore):
        with pytest.raises(InvalidRequest):
            make(url)


@pytest.mark.parametrize("path", ["", ":memory:", "file:x.db", "a\0b.db", b"x.db"])
def test_a_path_that_is_not_the_path_of_a_file_is_refused(path):
    with pytest.raises(InvalidRequest):
        SQLiteStreamStore(path)


async def test_a_url_names_the_file_with_its_odd_characters(tmp_path):
    url = f"sqlite:///{tmp_path}/a%20b%3F%231.db?durability=power&busy_timeout=1"
    async with SQLiteStreamStore.from_url(url) as store:
        await store.create("a")
    assert (tmp_path / "a b?#1.db").exists()
    async with SQLiteStreamStore(url) as store:  # the class takes a URL too
        assert (await store.info("a")).id == "a"


async def test_a_relative_path_is_that_of_the_moment_in_which_the_store_was_made(
    tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with SQLiteStreamStore("x.db") as store:
        info = await store.create("a")
        monkeypatch.chdir(tmp_path / "elsewhere")
        # The watcher connects only now.
        waiting = asyncio.ensure_future(store.wait("a", version=info.version, timeout=30))
        async with SQLiteStreamStore(tmp_path / "x.db") as other:
            await other.append("a", b"1")
        assert (await waiting).tail == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_repr_names_the_file(path):
    assert repr(SQLiteStreamStore(path)) == f"<SQLiteStreamStore {str(path)!r}>"


async def test_a_busy_timeout_without_end_is_allowed(path):
    async with SQLiteStreamStore(path, busy_timeout=float("inf")) as store:
        assert (await store.create("a", b"1")).tail == 1


# ---- callers that give up, and stores that close meanwhile


async def test_an_opening_that_fails_after_its_caller_was_cancelled_is_not_reported(
    tmp_path, caplog
):
    """asyncio logs "Task exception was never retrieved" when it collects such a task."""
    store = SQLiteStreamStore(tmp_path / "missing" / "x.db")
    call = asyncio.ensure_future(store.info("a"))
    while store._opening is None:
        await asyncio.sleep(0)
    opening = store._opening
    call.cancel()
    await asyncio.wait([call, opening])
    assert call.cancelled()
    with pytest.raises(StoreUnavailable):
        await store.info("a")
    del opening
    await store.aclose()
    gc.collect()
    # Collecting may log of stores that other tests have forgotten, too.
    assert "never retrieved" not in caplog.text


async def test_a_call_whose_store_is_closed_while_it_opens_is_told_so(path):
    for turns in range(12):
        store = SQLiteStreamStore(path)
        call = asyncio.ensure_future(store.create(f"s{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.aclose())
        result = (await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 30))[0]
        await asyncio.wait_for(closing, 30)
        assert getattr(result, "id", None) or isinstance(
            result, (StoreUnavailable, InvalidRequest)
        )


# ---- fork


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_is_told_to_open_a_store_of_its_own(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
        following = asyncio.ensure_future(follow(store, "a").__anext__())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _use_an_inherited_store(store)
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        # The parent's store goes on as if nothing had happened.
        assert (await store.append("a", b"1")).tail == 1
        assert (await asyncio.wait_for(following, 30)).data == b"1"


def _use_an_inherited_store(store: SQLiteStreamStore) -> None:
    calls = [
        lambda: store.info("a"),
        lambda: store.append("a", b"x"),
        lambda: store.wait("a", version=0, timeout=1),
        store.sweep,
        lambda: store.list().__anext__(),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="fork"):
            asyncio.run(asyncio.wait_for(call(), 5))
    asyncio.run(asyncio.wait_for(store.aclose(), 5))
    store.__del__()


# ---- SQLite's own bug


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        *[((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True)],
        *[((3, 44, 6), False), ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False)],
        *[((3, 51, 0), True), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 53, 0), False)],
    ],
)
def test_the_versions_with_the_wal_reset_bug_are_known(version, has_bug):
    assert database.has_wal_reset_bug(version) == has_bug


@pytest.mark.parametrize("version", [(3, 51, 2), (3, 51, 3)])
async def test_a_sqlite_with_the_wal_reset_bug_is_logged_once(
    tmp_path, monkeypatch, caplog, version
):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    database.warn_of_wal_reset_bug.cache_clear()
    with caplog.at_level(logging.WARNING, "streamstores.sqlite"):
        for number in range(2):
            async with SQLiteStreamStore(tmp_path / f"{number}.db"):
                pass
    assert len(caplog.records) == (1 if version == (3, 51, 2) else 0)
