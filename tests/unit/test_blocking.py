"""Stores, writers, followers and resumable streams in synchronous code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from streamstores import InvalidRequest, MemoryStreamStore, State, StreamClosed, StreamNotFound
from streamstores.blocking import BlockingStore, BlockingStreams, open_store


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/streams.db"


@pytest.fixture
def store(url):
    with open_store(url) as store:
        yield store


def interrupt_when_blocked():
    """As Ctrl-C does, once the main thread waits for the thread of the event loop."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt():
        while not is_blocked(sys._current_frames()[main]):
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def is_blocked(frame):
    names = [frame.f_code.co_name]
    while frame := frame.f_back:
        names.append(frame.f_code.co_name)
    return "result" in names and names[0] == "wait"


def test_a_store_has_every_method_of_the_contract(store):
    store.create("a", b"0", ttl=60, attributes={"k": "v"})
    info = store.append("a", b"1", at=1)
    assert (info.tail, info.attributes) == (2, {"k": "v"})
    assert [record.data for record in store.read("a").records] == [b"0", b"1"]
    assert store.info("a") == info
    assert store.wait("a", version=0, timeout=10).tail == 2
    assert store.expire("a", 30).ttl == 30
    assert [each.id for each in store.list()] == ["a"]
    assert store.mark_done("a").state is State.DONE
    assert store.sweep() == 0
    assert "durable" in store.capabilities
    assert store.limits.record_bytes
    store.delete("a")
    with pytest.raises(StreamNotFound):
        store.info("a")


def test_one_thread_follows_the_writes_of_another(store):
    store.create("a")
    read = []
    reader = threading.Thread(target=lambda: read.extend(store.follow("a")))
    reader.start()
    with store.writer("a") as writer:
        for number in range(100):
            writer.write(b"%d " % number)
    reader.join(30)
    assert b"".join(record.data for record in read) == b"".join(b"%d " % n for n in range(100))
    assert store.info("a").state is State.DONE


def test_an_abandoned_follower_is_closed(store):
    store.create("a", b"0", b"1")
    records = store.follow("a")
    assert next(records).data == b"0"
    records.close()
    store.delete("a")


def test_a_block_that_raises_ends_the_stream_in_error_and_an_interrupted_one_stops_it(store):
    for stream_id, exc, state in (
        ("a", ValueError("no"), State.ERROR),
        ("b", KeyboardInterrupt(), State.STOPPED),
    ):
        store.create(stream_id)
        with pytest.raises(type(exc)), store.writer(stream_id) as writer:
            writer.write(b"x")
            raise exc
        info = store.info(stream_id)
        assert (info.state, info.tail) == (state, 1)


def test_a_stop_elsewhere_ends_the_writer_and_tells_a_producer_that_blocks(store, url):
    store.create("a")
    ended = threading.Event()
    errors = []

    def on_end(error):
        errors.append(error)
        ended.set()

    with open_store(url) as elsewhere, pytest.raises(StreamClosed):
        with store.writer("a", heartbeat=0.05) as writer:
            writer.write(b"x")
            writer.flush()
            writer.on_end(on_end)
            assert not writer.is_stopped
            elsewhere.mark_done("a", "stopped")
            assert ended.wait(30), "a blocked producer hears of the stop"
            assert writer.is_stopped
            writer.write(b"y")
    assert isinstance(errors[0], StreamClosed)
    assert store.info("a").tail == 1


def test_a_closed_store_refuses_and_a_store_that_was_passed_in_stays_open():
    inner = MemoryStreamStore()
    store = BlockingStore(inner)
    store.create("a")
    store.close()
    with pytest.raises(InvalidRequest):
        store.info("a")
    with BlockingStore(inner) as again:
        assert again.info("a").tail == 0


def test_an_interrupted_call_is_cancelled(store):
    version = store.create("a").version
    interrupt_when_blocked()
    with pytest.raises(KeyboardInterrupt):
        store.wait("a", version=version, timeout=300)
    assert store.append("a", b"x").tail == 1


def test_streams_produce_to_the_end_and_a_second_run_attaches(url):
    def tokens():
        for number in range(5):
            yield f"data: {number}\n\n"

    with BlockingStreams(url, heartbeat=0.5) as streams:
        assert streams.produce("a", tokens).state is State.DONE
        assert streams.produce("a", lambda: pytest.fail("a second generation")).tail == 45
        assert b"".join(streams.body("a", offset=36)) == b"id: 45\ndata: 4\n\n"
        assert [record.data for record in streams.follow("a", 36)] == [b"data: 4\n\n"]


def test_a_stop_ends_a_plain_source_between_its_steps(url):
    said, closed = threading.Event(), threading.Event()

    def tokens():
        try:
            while True:
                yield "data: x\n\n"
                said.set()
                time.sleep(0.01)
        finally:
            closed.set()

    with BlockingStreams(url, heartbeat=0.5) as streams:
        streams.start("a", tokens)
        assert said.wait(30)
        assert streams.stop("a").state is State.STOPPED
        assert closed.wait(30)


def test_an_interrupted_produce_stops_its_stream(url):
    def tokens():
        interrupt_when_blocked()
        while True:
            yield "data: x\n\n"
            time.sleep(0.01)

    with BlockingStreams(url, heartbeat=0.5) as streams:
        with pytest.raises(KeyboardInterrupt):
            streams.produce("a", tokens)
        assert streams.info("a").state is State.STOPPED


FORKS = "ignore:This process:DeprecationWarning"  # of Python 3.12, about the fork itself


def run(program, *arguments):
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        FORKS,
        "-c",
        textwrap.dedent(program),
        *arguments,
    ]
    subprocess.run(command, check=True, timeout=60)


FORGETFUL = """
    import sys
    from streamstores.blocking import open_store

    store = open_store(sys.argv[1])
    store.create("a")
"""

FORKING = """
    import os, sys
    from streamstores import InvalidRequest, MemoryStreamStore
    from streamstores.blocking import BlockingStore, BlockingStreams, open_store

    store = open_store(sys.argv[1])
    streams = BlockingStreams(sys.argv[1])
    own = BlockingStore(MemoryStreamStore())
    store.create("a", b"parent")
    own.create("a")
    streams.info("a")
    child = os.fork()
    if child == 0:
        assert store.append("a", b"child").tail == 11
        assert streams.produce("b", lambda: iter(["data: 1\\n\\n"])).tail == 9
        try:
            own.info("a")
        except InvalidRequest as exc:
            assert "fork" in str(exc)
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert store.append("a", b"parent").tail == 17
    assert streams.info("b").tail == 9
    store.close()
    streams.close()
"""


FORKING_UNDER_THE_LOCK = """
    import os, sys
    from streamstores.blocking import background_loop, open_store

    store = open_store(sys.argv[1])
    with background_loop._lock:  # as another thread may hold it in the moment of the fork
        child = os.fork()
        if child == 0:
            store.create("a")
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert store.info("a").tail == 0
    store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_starts_the_loop_does_not_hang_the_child(url):
    run(FORKING_UNDER_THE_LOCK, url)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_each_process_after_a_fork_opens_connections_of_its_own(url):
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKING), url], check=True, timeout=60
    )


def test_a_program_that_forgets_to_close_its_store_ends(url):
    run(FORGETFUL, url)


def test_wrong_urls_and_calls_are_refused_clearly():
    with pytest.raises(InvalidRequest, match="scheme"):
        open_store("nothing").info("a")
