"""The command `append`, in processes of its own, on a SQLite file."""

from __future__ import annotations

import json
import resource
import signal

import pytest

from streamstores import State, StreamNotFound
from tests.cli.processes import content, messages, run, start, until, use


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/streams.db"


def test_stdin_is_appended_byte_for_byte_and_the_stream_marked_done(url):
    data = bytes(range(256)) * 20_000
    attributes = ("--attribute", "content-type=text/x=y", "--attribute", "empty=")
    result = run("append", "s", "--create", "--done", "--json", *attributes, url=url, data=data)
    assert (result.returncode, result.stderr) == (0, b"")
    info = json.loads(result.stdout)
    assert (info["state"], info["tail"]) == ("done", len(data))
    assert info["attributes"] == {"content-type": "text/x=y", "empty": ""}
    assert use(url, lambda store: content(store, "s")) == data


def test_lines_become_records(url):
    run("append", "s", "--create", "--lines", url=url, data=b"one\n\ntwo\r\nlast")
    page = use(url, lambda store: store.read("s"))
    assert [record.data for record in page.records] == [b"one\n", b"\n", b"two\r\n", b"last"]
    assert page.info.state is State.STREAMING


def test_a_second_append_goes_on_at_the_tail(url):
    for part in (b"one", b"two"):
        assert run("append", "s", "--create", url=url, data=part).returncode == 0
    assert use(url, lambda store: content(store, "s")) == b"onetwo"


def test_without_create_there_has_to_be_a_stream(url):
    assert run("append", "s", url=url, data=b"x").returncode == 3
    with pytest.raises(StreamNotFound):
        use(url, lambda store: store.info("s"))


@pytest.mark.parametrize(
    "arguments", [("--ttl", "5"), ("--attribute", "a=b"), ("--create", "--attribute", "a")]
)
def test_options_that_do_not_fit_are_refused(url, arguments):
    assert run("append", "s", *arguments, url=url, data=b"x").returncode == 2


def test_a_closed_stream_takes_nothing(url):
    use(url, lambda store: store.create("s", b"x", state="done"))
    assert run("append", "s", "--create", url=url, data=b"y").returncode == 4


def test_what_arrives_is_appended_before_stdin_ends_and_a_stop_ends_the_command(url):
    use(url, lambda store: store.create("s"))
    with start("append", "s", url=url) as process:
        process.stdin.write(b"early")
        process.stdin.flush()
        until(lambda: use(url, lambda store: store.info("s")).tail == 5, "the bytes")
        use(url, lambda store: store.mark_done("s", "stopped"))
        process.stdin.write(b"late")
        process.stdin.flush()
        errors = messages(process.stderr.read())
        assert process.wait(120) == 4
        process.stdin.close()
    assert errors.startswith(b"5 bytes of the input are in the stream\nStreamClosed")


def test_a_heartbeat_notices_a_takeover_while_stdin_is_silent(url):
    before = use(url, lambda store: store.create("s"))
    with start("append", "s", "--heartbeat", "0.2", url=url) as process:

        def lives() -> bool:
            return use(url, lambda store: store.info("s")).version > before.version

        until(lives, "a heartbeat")
        use(url, lambda store: store.append("s", b"mine"))
        assert process.wait(120) == 4
        assert b"0 bytes of the input" in process.stderr.read()
        process.stdin.close()


def test_ctrl_c_keeps_what_has_arrived_and_says_how_much(url):
    use(url, lambda store: store.create("s"))
    with start("append", "s", url=url) as process:
        process.stdin.write(b"x" * 1000)
        process.stdin.flush()
        until(lambda: use(url, lambda store: store.info("s")).tail == 1000, "the bytes")
        process.send_signal(signal.SIGINT)
        errors = messages(process.stderr.read())
        assert process.wait(120) == 130
        process.stdin.close()
    assert errors == b"1000 bytes of the input are in the stream\ninterrupted\n"


def test_a_line_that_is_too_long_is_refused_and_the_lines_before_it_are_kept(url):
    data = b"first\n" + b"x" * 1_100_000
    result = run("append", "s", "--create", "--lines", url=url, data=data)
    assert result.returncode == 2
    assert result.stderr.startswith(b"6 bytes of the input are in the stream\nLimitExceeded")
    assert use(url, lambda store: content(store, "s")) == b"first\n"


def test_a_full_disk_is_one_line_and_the_stream_holds_what_was_counted(url, tmp_path):
    use(url, lambda store: store.create("s"))

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))

    options = ("append", "s", "--retry-for", "0")
    result = run(*options, url=url, data=b"x" * 3_000_000, preexec_fn=bound)
    assert result.returncode in (5, 6), result.stderr
    count = int(result.stderr.split()[0])
    assert use(url, lambda store: store.info("s")).tail == count
