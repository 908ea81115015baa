"""The command `bench`: its report, what it leaves behind, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamstores import StreamStore
from tests.cli.processes import run, start, until, use, with_small_files
from tests.redis.helpers import server_or_skip
from tests.services import postgres, redis, s3

pytestmark = pytest.mark.long

QUICK = ("bench", "--seconds", 0.1)


@pytest.fixture(params=["memory", "sqlite", "redis", "cluster", "postgres", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "memory":
            yield "memory://"
        elif request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/with space.db?durability=power"
        elif request.param == "postgres":
            yield stack.enter_context(postgres.fresh_schema(postgres.shared()))
        elif request.param == "s3":
            yield s3.shared().url()
        else:
            name = "valkey" if request.param == "redis" else "cluster"
            yield redis.with_own_prefix(redis.shared(name))


async def ids(store: StreamStore) -> list[str]:
    return [info.id async for info in store.list()]


def test_each_measurement_has_a_figure_beside_the_driver_alone_and_nothing_is_left(url: str):
    ended = run(*QUICK, "--json", url=url)
    assert (ended.returncode, ended.stderr) == (0, b"")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["measure"] for row in rows] == ["append", "delivery", "replay"]
    for row in rows:
        assert row["unit"] == "ms"
        assert 0 < row["store"]["median"] <= row["store"]["p99"]
        if url == "memory://" or row["measure"] == "delivery":
            assert row["driver"] is None
        else:
            assert 0 < row["driver"]["median"] <= row["driver"]["p99"]
    if url != "memory://":
        assert use(url, ids) == []


def test_the_report_says_what_the_driver_did_and_no_file_is_left(tmp_path: Path):
    ended = run(*QUICK, url=f"sqlite:///{tmp_path}/x.db")
    assert ended.returncode == 0
    head, append, delivery, replay, _, does = ended.stdout.decode().splitlines()
    assert head.split() == ["milliseconds", "store", "driver", "alone"]
    assert [line.split()[0] for line in (append, delivery, replay)] == [
        *("append", "delivery", "replay")
    ]
    assert all(line.endswith(" times") for line in (append, replay))
    assert does.startswith("driver alone: aiosqlite: ")
    assert [each.name for each in tmp_path.iterdir()] == ["x.db"]


def test_ctrl_c_leaves_nothing(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/x.db"
    with start("bench", "--seconds", 60, url=url) as process:
        until(lambda: len(list(tmp_path.glob("x.db-bench-*"))) == 3, "the driver's file")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith(b"interrupted\n")
    assert [each.name for each in tmp_path.iterdir()] == ["x.db"]
    assert use(url, ids) == []


def test_a_driver_that_lacks_a_right_is_said_and_the_store_is_measured():
    change = (  # its arguments depend on the version of the server
        "DO $$ DECLARE it regprocedure; BEGIN FOR it IN SELECT oid FROM pg_proc"
        " WHERE proname = 'pg_logical_emit_message' LOOP"
        " EXECUTE format('{} EXECUTE ON FUNCTION %s {} PUBLIC', it); END LOOP; END $$"
    )
    with postgres.fresh_schema(postgres.shared()) as url:
        use(url, ids)
        with postgres.limited_user(url, "SELECT, INSERT, UPDATE, DELETE") as limited:
            postgres.execute(url, change.format("REVOKE", "FROM"))
            try:
                ended = run(*QUICK, "--json", url=limited)
            finally:
                postgres.execute(url, change.format("GRANT", "TO"))
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"the driver alone is not measured: ")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["driver"] for row in rows] == [None] * 3


def test_a_server_that_goes_away_ends_it_with_a_line():
    with server_or_skip() as server:
        url = f"redis://127.0.0.1:{server.port}?timeout=2"
        with start("bench", "--seconds", 60, url=url) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the head
            server.kill()
            _, errors = process.communicate(timeout=60)
    assert process.returncode in (5, 6)
    assert b"Traceback" not in errors
    assert len(errors.splitlines()) == 1


def test_a_full_disk_ends_it_with_one_line(tmp_path: Path):
    bound = with_small_files(100_000)
    ended = run("bench", url=f"sqlite:///{tmp_path}/x.db", preexec_fn=bound)
    assert ended.returncode in (1, 5, 6)
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "code"),
    [("redis://127.0.0.1:1", 5), ("sqlite:///", 2), ("nonsense://x", 2), ("", 2)],
)
def test_a_store_that_cannot_be_used_is_a_line_and_a_code(url: str, code: int):
    ended = run(*QUICK, url=url)
    assert ended.returncode == code
    assert len(ended.stderr.splitlines()) == 1
