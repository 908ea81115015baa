"""The commands that show, stop and delete streams, on a SQLite file."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from streamstores import cli, open_store

COMMAND = [sys.executable, "-c", "from streamstores.cli import main; main()"]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/streams.db"


@pytest.fixture
def filled_url(url):
    async def fill():
        async with open_store(url) as store:
            await store.create("chat/1", b"Hello ", b"world", attributes={"who": "Ann"})
            await store.create("chat/2", b"over", state="done")
            await store.create("other", b"x")

    asyncio.run(fill())
    return url


def run(url: str, *arguments: str):
    return CliRunner().invoke(
        cli.build_app(), [*arguments], env={"STREAMSTORES_URL": url}, catch_exceptions=False
    )


def listed_ids(url: str, *arguments: str) -> set[str]:
    result = run(url, "ls", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {json.loads(line)["id"] for line in result.stdout.splitlines()}


def test_ls_selects_by_prefix_state_and_silence(filled_url):
    assert listed_ids(filled_url) == {"chat/1", "chat/2", "other"}
    assert listed_ids(filled_url, "chat/") == {"chat/1", "chat/2"}
    assert listed_ids(filled_url, "--state", "done") == {"chat/2"}
    assert listed_ids(filled_url, "--stale", "0") == {"chat/1", "other"}
    assert listed_ids(filled_url, "--stale", "3600") == set()


def test_ls_escapes_characters_that_change_the_direction_of_a_line(url):
    async def create():
        async with open_store(url) as store:
            await store.create("bad\u202eid")

    asyncio.run(create())
    assert run(url, "ls").stdout.endswith("bad\\u202eid\n")


def test_info_shows_every_field(filled_url):
    fields = json.loads(run(filled_url, "info", "chat/1", "--json").stdout)
    assert fields["attributes"] == {"who": "Ann"}
    assert (fields["state"], fields["tail"], fields["ttl"]) == ("streaming", 11, None)
    assert "chat/1" in run(filled_url, "info", "chat/1").stdout


@pytest.mark.parametrize(
    ("offset", "data"), [("0", b"Hello world"), ("8", b"rld"), ("11", b"")]
)
def test_cat_writes_the_bytes_from_an_offset(filled_url, offset, data):
    result = run(filled_url, "cat", "chat/1", "--offset", offset)
    assert (result.exit_code, result.stdout_bytes) == (0, data)


def test_a_stopped_stream_is_stopped_in_the_store(filled_url):
    assert run(filled_url, "stop", "chat/1").exit_code == 0
    assert listed_ids(filled_url, "--state", "stopped") == {"chat/1"}
    assert run(filled_url, "stop", "chat/1").exit_code == 0


def test_a_finished_stream_cannot_be_stopped(filled_url):
    result = run(filled_url, "stop", "chat/2")
    assert result.exit_code == 4
    assert "StreamClosed" in result.stderr


def test_rm_deletes_and_a_second_rm_says_that_there_is_no_stream(filled_url):
    assert run(filled_url, "rm", "chat/1", "chat/2").exit_code == 0
    assert listed_ids(filled_url) == {"other"}
    assert run(filled_url, "rm", "chat/1").exit_code == 3


def test_expire_needs_a_time_or_never(filled_url):
    assert run(filled_url, "expire", "other").exit_code == 2
    changed = run(filled_url, "expire", "other", "--ttl", "60", "--json")
    assert json.loads(changed.stdout)["ttl"] == 60
    kept = run(filled_url, "expire", "other", "--never", "--json")
    assert json.loads(kept.stdout)["expires_at"] is None


def test_sweep_counts_in_json(filled_url):
    assert run(filled_url, "sweep", "--json").stdout == '{"swept": 0}\n'


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", 2),
        ("nonsense", 2),
        ("sqlite:////nowhere/at/all.db", 5),
        ("redis://127.0.0.1:1/0", 5),
        ("postgresql://nobody@127.0.0.1:1/none", 5),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line_and_a_code(url, code):
    result = run(url, "info", "x")
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_reader_that_closes_the_pipe_ends_cat_quietly(url):
    async def fill():
        async with open_store(url) as store:
            await store.create("large", *[b"x" * 1_000_000] * 8)

    asyncio.run(fill())
    command = [*COMMAND, "cat", "large", "--store", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 141


def test_ctrl_c_during_a_call_that_hangs_is_one_line_and_130():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "info", "x", "--store", url]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"interrupted\n")
