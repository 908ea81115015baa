"""aiosqlite as it may be tomorrow: without the private names that make calls fast."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import aiosqlite.core
import pytest

from streamstores import Conflict, SQLiteStreamStore, StoreUnavailable, follow
from streamstores.backends._sqlite import threads

RENAMED = ("_tx", "_conn", "_thread", "_connection", "_running", "_connector")


def renamed_aiosqlite() -> ModuleType:
    """aiosqlite's core with other private names, and with entries of the queue as lists."""
    source = Path(aiosqlite.core.__file__).read_text(encoding="utf-8")
    for name in RENAMED:
        source = re.sub(rf"(self\.|def ){name}\b", rf"\1_new{name}", source)
    spec = importlib.util.spec_from_loader("aiosqlite.renamed", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = "aiosqlite"
    exec(compile(source, "aiosqlite/renamed.py", "exec"), module.__dict__)
    return module


@pytest.fixture(params=["as it is", "renamed", "queue of other entries"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(threads, "_takes_functions", None)
    if request.param == "renamed":
        monkeypatch.setattr(threads.aiosqlite, "Connection", renamed_aiosqlite().Connection)
    elif request.param == "queue of other entries":
        monkeypatch.setattr(threads.aiosqlite, "Connection", OtherEntries)
        monkeypatch.setattr(threads, "_PROBE_SECONDS", 0.2)
    yield request.param
    gc.collect()


class OtherEntries(aiosqlite.Connection):
    """Has a `_tx` whose entries are never run."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._worked_off = self._tx
        self._tx = Decoy(self._tx)


class Decoy:
    def __init__(self, queue) -> None:
        self._queue = queue

    def get(self):
        return self._queue.get()

    def put_nowait(self, entry) -> None:
        if sys._getframe(1).f_globals["__name__"].startswith("aiosqlite"):
            self._queue.put_nowait(entry)


async def test_a_store_works_with_any_driver(tmp_path, driver):
    path = tmp_path / "streams.db"
    async with SQLiteStreamStore(path) as store, SQLiteStreamStore(path) as other:
        assert threads._takes_functions is (driver == "as it is")
        await store.create("a", b"0", attributes={"k": "v"})
        appends = [store.append("a", b"%d" % number) for number in range(1, 10)]
        assert [info.tail for info in await asyncio.gather(*appends)] == [*range(2, 11)]
        with pytest.raises(Conflict):
            await store.append("a", b"x", at=0)
        following = asyncio.ensure_future(_text_of(other, "a"))
        await store.append("a", b"!", state="done")
        assert await asyncio.wait_for(following, 30) == b"0123456789!"
        cancelled = asyncio.ensure_future(store.append("a", b"x"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await store.delete("a")
        await store.sweep()
        assert [info async for info in store.list()] == []


async def test_errors_of_the_file_come_through_any_driver(tmp_path, driver):
    path = tmp_path / "streams.db"
    with pytest.raises(StoreUnavailable, match="unable to open"):
        async with SQLiteStreamStore(tmp_path / "missing" / "x.db"):
            pass
    async with SQLiteStreamStore(path, busy_timeout=0.01) as store:
        await store.create("a")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.append("a", b"x")
        holder.execute("ROLLBACK")
        holder.close()
        assert (await store.append("a", b"x")).tail == 1


async def test_closing_commits_pending_appends_with_any_driver(tmp_path, driver):
    store = SQLiteStreamStore(tmp_path / "streams.db")
    await store.create("a")
    appends = [asyncio.ensure_future(store.append("a", b"x")) for _ in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [(await append).tail for append in appends] == [*range(1, 51)]


def test_a_process_that_never_closes_its_store_ends_with_any_driver(tmp_path):
    """Its threads are daemons, which aiosqlite offers no option for."""
    script = (
        "import asyncio, sys; from streamstores import SQLiteStreamStore\n"
        "from tests.sqlite.test_driver import renamed_aiosqlite\n"
        "from streamstores.backends._sqlite import threads\n"
        "threads.aiosqlite.Connection = renamed_aiosqlite().Connection\n"
        "store = SQLiteStreamStore(sys.argv[1])\n"
        "asyncio.run(store.create('a'))\n"
        "assert threads._takes_functions is False\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.db"], timeout=60, check=False
    )
    assert run.returncode == 0


async def _text_of(store: SQLiteStreamStore, stream_id: str) -> bytes:
    return b"".join([record.data async for record in follow(store, stream_id)])
