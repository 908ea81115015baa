"""What a store does if its file is busy, full, read-only, broken, or not its own."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from streamstores import (
    CorruptData,
    SQLiteStreamStore,
    StoreUnavailable,
    StreamNotFound,
)

IMAGE = b"x" * 100_000


async def on_the_writer(store: SQLiteStreamStore, sql: str) -> Any:
    """The first row of a statement on the connection that writes."""
    execute = store._connections.writer.submit(lambda connection: connection.execute(sql))
    return (await execute).fetchone()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


async def test_a_busy_database_is_unavailable_after_busy_timeout_and_recovers(path):
    async with SQLiteStreamStore(path, busy_timeout=0.1) as store:
        await store.create("a", b"1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(StoreUnavailable, match="locked") as caught:
                await store.append("a", b"2")
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert (await store.read("a")).next_offset == 1, "readers do not wait for writers"
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert (await store.append("a", b"2", at=1)).tail == 2


async def test_a_full_database_takes_nothing_and_recovers(path):
    async with SQLiteStreamStore(path) as store:
        before = await store.create("a", b"1")
        (pages,) = await on_the_writer(store, "PRAGMA page_count")
        await on_the_writer(store, f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StoreUnavailable, match="full"):
            await store.append("a", IMAGE, state="done")
        assert await store.info("a") == before
        await on_the_writer(store, "PRAGMA max_page_count = 1000000")
        assert (await store.append("a", IMAGE, state="done")).tail == 1 + len(IMAGE)


def test_a_file_that_cannot_grow_takes_nothing_and_keeps_its_data(path):
    """A real limit of the operating system makes the write itself fail half-way."""
    script = """
        import asyncio, resource, signal, sys
        from streamstores import SQLiteStreamStore, OutcomeUnknown, StoreUnavailable

        async def main():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            async with SQLiteStreamStore(sys.argv[1]) as store:
                await store.create("a", b"kept")
                resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
                try:
                    for _ in range(10):
                        await store.append("a", b"x" * 100_000)
                except (StoreUnavailable, OutcomeUnknown):
                    info = await store.info("a")
                    page = await store.read("a", 4, max_bytes=10**7)
                    assert page.next_offset == info.tail, (page.next_offset, info)
                    assert all(record.data == b"x" * 100_000 for record in page.records)
                    print("refused at", info.tail)

        asyncio.run(main())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("refused at "), run.stdout


def test_a_read_only_file_is_unavailable_and_named():
    """Opened as a user without write permission, which root has to become first."""
    script = """
        import asyncio, concurrent.futures.thread, os, sys
        from streamstores import SQLiteStreamStore, StoreUnavailable

        async def main():
            if os.geteuid() == 0:
                os.setegid(65534)
                os.seteuid(65534)
            try:
                async with SQLiteStreamStore(sys.argv[1]) as store:
                    await store.append("a", b"x")
            except StoreUnavailable as exc:
                print(exc)

        asyncio.run(main())
    """
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.db")
        asyncio.run(create_a_stream(path))
        before = path.read_bytes()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        Path(folder).chmod(0o755)
        assert run.returncode == 0, run.stderr
        assert str(path) in run.stdout
        assert "readonly" in run.stdout or "unable to open" in run.stdout
        assert path.read_bytes() == before


async def create_a_stream(path: Path) -> None:
    async with SQLiteStreamStore(path) as store:
        await store.create("a")


async def test_a_database_that_cannot_be_written_is_unavailable(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a", b"1")
        await on_the_writer(store, "PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable, match="readonly"):
            await store.append("a", b"2")
        assert (await store.info("a")).tail == 1


async def test_a_missing_folder_is_unavailable_and_named(tmp_path):
    path = tmp_path / "no" / "such" / "x.db"
    async with aclosing(SQLiteStreamStore(path)) as store:
        with pytest.raises(StoreUnavailable, match="no/such/x.db"):
            await store.info("a")
        path.parent.mkdir(parents=True)
        with pytest.raises(StreamNotFound):
            await store.info("a")


async def test_a_file_that_is_not_a_database_is_corrupt_and_left_alone(path):
    text = b"Dear diary, this is no database. " * 100
    path.write_bytes(text)
    with pytest.raises(CorruptData, match="not a database"):
        async with SQLiteStreamStore(path):
            pass
    assert path.read_bytes() == text


async def test_a_hole_in_the_records_is_corrupt_not_a_short_read(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a", b"11", b"22", b"33")
        with sqlite3.connect(path) as other:
            other.execute("""DELETE FROM streamstores_records WHERE "end" = 4""")
        other.close()
        with pytest.raises(CorruptData):
            await store.read("a")
        assert (await store.read("a", 4)).records[0].data == b"33"


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(path):
    async with SQLiteStreamStore(path) as store:
        await store.create("a")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE streamstores_schema SET version = 99")
    other.close()
    with pytest.raises(StoreUnavailable, match="schema 99"):
        async with SQLiteStreamStore(path):
            pass


async def test_a_database_of_an_application_is_shared_without_touching_its_tables(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE streams (mine TEXT)")
        other.execute("PRAGMA user_version = 7")
    other.close()
    async with SQLiteStreamStore(path) as store:
        await store.create("a", b"1")
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM streams").fetchone() == (0,)
        assert other.execute("PRAGMA user_version").fetchone() == (7,)
    other.close()


async def test_many_processes_may_open_a_new_file_at_once(path):
    script = (
        "import asyncio, sys; from streamstores import SQLiteStreamStore\n"
        "async def main():\n"
        "    async with SQLiteStreamStore(sys.argv[1]) as store:\n"
        "        await store.create(sys.argv[2])\n"
        "asyncio.run(main())"
    )
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, f"s{n}")
        for n in range(6)
    ]
    assert [await process.wait() for process in processes] == [0] * 6
    async with SQLiteStreamStore(path) as store:
        assert {info.id async for info in store.list()} == {f"s{n}" for n in range(6)}


def test_an_append_that_returned_survives_a_killed_process(path):
    script = (
        "import asyncio, os, signal, sys; from streamstores import SQLiteStreamStore\n"
        "async def main():\n"
        "    store = SQLiteStreamStore(sys.argv[1])\n"
        "    await store.create('a')\n"
        "    for n in range(50):\n"
        "        await store.append('a', b'%03d' % n)\n"
        "    asyncio.create_task(store.append('a', b'last'))\n"
        "    await asyncio.sleep(0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", script, path], timeout=60, check=False)

    async def read() -> bytes:
        async with SQLiteStreamStore(path) as store:
            page = await store.read("a")
            assert page.next_offset == page.info.tail
            return b"".join(record.data for record in page.records)

    data = asyncio.run(read())
    acknowledged = b"".join(b"%03d" % n for n in range(50))
    assert data in (acknowledged, acknowledged + b"last")


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
async def test_a_commit_is_flushed_as_the_durability_says(path, durability, synchronous):
    async with SQLiteStreamStore(path, durability=durability) as store:
        assert await on_the_writer(store, "PRAGMA synchronous") == (synchronous,)
        assert await on_the_writer(store, "PRAGMA journal_mode") == ("wal",)
