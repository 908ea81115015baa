"""The command `tail`, in processes of its own, on a SQLite file."""

from __future__ import annotations

import signal

import pytest

from tests.cli.processes import messages, run, start, until, use

TEXT = b"0123456789" * 1000


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path}/streams.db"
    use(url, lambda store: store.create("s", TEXT[:7000], TEXT[7000:]))
    return url


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ([], TEXT[-4096:]),
        (["--offset", "-3"], b"789"),
        (["--offset", "9990"], b"0123456789"),
        (["--offset", "10000"], b""),
        (["--offset", "-99999"], TEXT),
    ],
)
def test_tail_begins_at_an_offset_from_the_start_or_the_end(url, arguments, data):
    result = run("tail", "s", *arguments, url=url)
    assert (result.returncode, result.stdout, result.stderr) == (0, data, b"")


@pytest.mark.parametrize("arguments", [(), ("-f",)])
def test_an_offset_beyond_the_tail_is_refused(url, arguments):
    assert run("tail", "s", "--offset", 10001, *arguments, url=url).returncode == 2


def test_a_stream_that_does_not_exist_is_exit_code_3(url):
    assert run("tail", "nothing", "-f", url=url).returncode == 3


def test_follow_writes_what_is_appended_and_ends_with_the_stream(url):
    with start("tail", "s", "-f", "--offset", "-1", url=url) as process:
        assert process.stdout.read(1) == b"9"
        use(url, lambda store: store.append("s", b"more"))
        assert process.stdout.read(4) == b"more"
        use(url, lambda store: store.append("s", b"!", state="error", error=None))
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, b"!")
    assert messages(errors) == b"the stream has ended: error\n"


def test_a_stream_that_is_deleted_is_not_a_stream_that_ended(url):
    with start("tail", "s", "-f", "--offset", "-1", url=url) as process:
        assert process.stdout.read(1) == b"9"
        use(url, lambda store: store.delete("s"))
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert b"written up to offset 10000" in errors


def test_ctrl_c_prints_the_offset_to_go_on_from(url):
    with start("tail", "s", "-f", url=url) as process:
        assert process.stdout.read(4096) == TEXT[-4096:]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert messages(errors).splitlines() == [
        b"written up to offset 10000: go on with --offset 10000",
        b"interrupted",
    ]


def test_an_interrupted_file_is_continued_to_the_last_byte(url, tmp_path):
    path = tmp_path / "output"
    with start("tail", "s", "-f", "--output", path, url=url) as process:
        until(lambda: path.exists() and path.stat().st_size == len(TEXT), "the file")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    use(url, lambda store: store.append("s", b"end", state="done"))
    assert run("tail", "s", "--output", path, url=url).returncode == 1  # never overwritten
    for _ in range(2):
        command = ("tail", "s", "-f", "--output", path, "--continue")
        assert run(*command, url=url).returncode == 0
        assert path.read_bytes() == TEXT + b"end"


@pytest.mark.parametrize("foreign", [b"something else", TEXT + b"longer"])
def test_a_file_of_something_else_is_not_continued(url, tmp_path, foreign):
    path = tmp_path / "output"
    path.write_bytes(foreign)
    result = run("tail", "s", "--output", path, "--continue", url=url)
    assert result.returncode == 2
    assert b"not the beginning of stream" in result.stderr
    assert path.read_bytes() == foreign


def test_a_file_on_a_full_disk_is_exit_code_1(url):
    result = run("tail", "s", "--output", "/dev/full", "--continue", url=url)
    assert result.returncode == 1
    assert b"No space left" in result.stderr
