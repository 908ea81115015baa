"""The command `copy`, in processes of its own, between files and real servers."""

from __future__ import annotations

import json
import os
import pty
import secrets
import signal
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import pytest

from streamstores import (
    CorruptData,
    MemoryStreamStore,
    Page,
    Record,
    State,
    StreamNotFound,
    StreamStore,
)
from streamstores.cli.transfers import Transfer
from tests.cli.processes import content, run, start, until, use, with_small_files
from tests.services import postgres as postgres_servers
from tests.services import redis as redis_servers
from tests.services import s3 as s3_servers

pytestmark = pytest.mark.long

LATER = datetime(2099, 1, 1, tzinfo=timezone.utc)
LARGE = b"0123456789abcdef" * 40_000
TARGETS = ["sqlite", "redis", "postgres", "s3"]


@pytest.fixture
def source(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/source.db"


@pytest.fixture
def target(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/target.db"


def store_url(kind: str, tmp_path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/live.db"
    elif kind == "redis":
        yield redis_servers.with_own_prefix(redis_servers.shared())
    elif kind == "s3":
        yield s3_servers.shared().url()
    else:
        with postgres_servers.fresh_schema(postgres_servers.shared()) as url:
            yield url


@pytest.fixture(params=TARGETS)
def live_url(request, tmp_path) -> Iterator[str]:
    yield from store_url(request.param, tmp_path)


async def fill(store: StreamStore) -> None:
    odd = "a/../é*{b}%2F\u202e'\""
    await store.create(odd, b"\x00\xff", b"two", attributes={"k": "v"}, state="done", ttl=5000)
    await store.create("empty", expires_at=LATER)
    await store.create("stopped", b"half", state="stopped", attributes={"owner": "x"})
    await store.create("live", b"so far")
    await store.create("failed", b"x")
    await store.append("failed", b"y", state="error", error="out of luck")
    await store.create("large", *[LARGE] * 16)
    await store.append("large", *[LARGE] * 4, b"!", state="done", attributes={"n": "1"})


async def everything(store: StreamStore) -> dict[str, object]:
    """What a copy keeps of every stream, byte by byte, with the records' boundaries."""
    kept = {}
    async for info in store.list():
        ends, offset = [], 0
        while offset < info.tail:
            page = await store.read(info.id, offset)
            ends += [record.end for record in page.records]
            offset = page.next_offset
        bounds = tuple(ends)
        fields = info.state, info.error, dict(info.attributes), info.ttl
        end = None if info.ttl else info.expires_at
        kept[info.id] = (*fields, end, bounds, await content(store, info.id))
    return kept


def copied(*arguments: object, code: int = 0) -> tuple[dict[str, str], dict[str, int]]:
    """The outcome of each stream by its id, and the last line, of a copy with --json."""
    result = run("copy", *arguments, "--json")
    assert result.returncode == code, result.stderr
    *lines, summary = map(json.loads, result.stdout.splitlines())
    return {line["id"]: line["outcome"] for line in lines}, summary


def test_all_that_is_kept_arrives_and_a_second_run_changes_nothing(source, live_url):
    use(source, fill)
    outcomes, summary = copied(source, live_url)
    assert set(outcomes.values()) == {"copied"}
    assert (len(outcomes), summary["still_streaming"]) == (6, 2)
    before = use(source, everything)
    assert use(live_url, everything) == before
    outcomes, summary = copied(source, live_url)
    assert set(outcomes.values()) == {"unchanged"}
    assert summary["bytes"] == 0


def test_the_streams_of_a_live_store_arrive_in_a_file(live_url, target):
    use(live_url, fill)
    copied(live_url, target)
    assert use(target, everything) == use(live_url, everything)


def test_a_stream_that_has_grown_is_continued_until_it_is_done(source, target):
    use(source, lambda store: store.create("s", b"one", attributes={"owner": "a"}))
    assert copied(source, target)[0] == {"s": "copied"}
    use(source, lambda store: store.append("s", b"two", state="stopped"))
    assert copied(source, target)[0] == {"s": "continued"}

    async def reopen(store: StreamStore) -> None:
        info = await store.info("s")
        await store.append("s", state="streaming", version=info.version)
        await store.append("s", b"three", state="done", attributes={"owner": "b"})

    use(source, reopen)
    assert copied(source, target)[0] == {"s": "continued"}
    assert use(target, everything) == use(source, everything)


@pytest.mark.parametrize("theirs", [b"other", b"the same and more"])
@pytest.mark.parametrize("state", ["streaming", "done"])
def test_another_stream_of_the_same_id_is_reported_and_not_touched(
    source, target, theirs, state
):
    use(source, lambda store: store.create("s", b"the same"))
    use(source, lambda store: store.create("t", b"t"))
    use(target, lambda store: store.create("s", theirs, state=state))
    outcomes, _ = copied(source, target, code=4)
    assert outcomes == {"s": "failed", "t": "copied"}
    assert use(target, lambda store: content(store, "s")) == theirs


def test_an_empty_stream_of_another_program_is_not_written_to(source, target):
    use(source, lambda store: store.create("s", b"the same"))
    use(target, lambda store: store.create("s", attributes={"owner": "another"}))
    assert copied(source, target, code=4)[0] == {"s": "failed"}
    assert use(target, lambda store: content(store, "s")) == b""


class Forgetful(MemoryStreamStore):
    """A target that gives back one byte wrongly."""

    async def read(self, stream_id: str, offset: int = 0, *, max_bytes: int = 2**20) -> Page:
        page = await super().read(stream_id, offset, max_bytes=max_bytes)
        wrong = [Record(each.offset, b"?" + each.data[1:]) for each in page.records]
        return page._replace(records=wrong)


@pytest.mark.parametrize("count", [1, 20])
async def test_a_target_that_gives_back_other_bytes_is_noticed(count):
    async with MemoryStreamStore() as source, Forgetful() as target:
        await source.create("s", *[LARGE] * count)
        with pytest.raises(CorruptData, match="does not have the bytes"):
            await Transfer(source, target).bring("s")


def test_streams_are_selected_by_prefix_or_id(source, target):
    for name in ("a/1", "a/2", "b"):
        use(source, lambda store, name=name: store.create(name, b"x"))
    assert set(copied(source, target, "--prefix", "a/")[0]) == {"a/1", "a/2"}
    assert copied(source, target, "b", "none", code=3)[0] == {"b": "copied", "none": "failed"}
    assert run("copy", source, target, "b", "--prefix", "a").returncode == 2


def test_an_unfinished_copy_shows_nothing_of_the_stream_that_it_will_be(source, target):
    """A leftover of a stream that was replaced in the source is replaced as well."""
    mark = {"streamstores-copy": "unfinished"}
    use(target, lambda store: store.create("s", b"of the old one", attributes=mark))
    use(source, lambda store: store.create("s", b"new", state="done", attributes={"k": "v"}))
    assert copied(source, target)[0] == {"s": "copied"}
    assert use(target, everything) == use(source, everything)


def unfinished(url: str) -> list[int]:
    """The sizes of the streams that are marked as unfinished."""

    async def sizes(store: StreamStore) -> list[int]:
        return [i.tail async for i in store.list() if "streamstores-copy" in i.attributes]

    return use(url, sizes)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_redis_store_is_copied_and_interrupted_and_resumed_byte_by_byte(kind, tmp_path):
    """With the progress on a terminal; the first run is interrupted inside a large stream."""
    origin = redis_servers.with_own_prefix(redis_servers.shared())

    async def fill_large(store: StreamStore) -> None:
        await store.create("large", attributes={"owner": "somebody"})
        for _ in range(15):
            await store.append("large", *[secrets.token_bytes(500_000)] * 8)
        await store.append("large", b"end", state="done")
        for number in range(20):
            await store.create(f"small/{number}", b"x" * (number + 1), b"y", state="done")

    use(origin, fill_large)
    for url in store_url(kind, tmp_path):
        terminal, side = pty.openpty()
        with start("copy", origin, url, stderr=side) as process:
            os.close(side)
            until(lambda url=url: any(unfinished(url)), "a part of the large stream")
            process.send_signal(signal.SIGINT)
            output = process.stdout.read()
            assert process.wait(120) == 130
        shown = read_terminal(terminal)
        assert b"interrupted" in shown
        assert b"MB/s" in shown or b"kB/s" in shown
        assert b"Traceback" not in shown
        assert b"21 streams" in output
        (partial,) = unfinished(url)
        outcomes, summary = copied(origin, url)
        assert outcomes["large"] == "continued"
        assert summary["bytes"] <= 60_000_003 + 230 - partial
        assert use(url, everything) == use(origin, everything)


def read_terminal(terminal: int) -> bytes:
    shown = b""
    try:
        while part := os.read(terminal, 65_536):
            shown += part
    except OSError:  # Linux says so when the other side is closed
        pass
    finally:
        os.close(terminal)
    return shown


class Vanishing:
    """A source whose stream is deleted after the first page was read."""

    def __init__(self, store: StreamStore) -> None:
        self.info = store.info
        self._store = store

    async def read(self, stream_id: str, offset: int = 0, *, max_bytes: int) -> Page:
        page = await self._store.read(stream_id, offset, max_bytes=max_bytes)
        if offset == 0:
            return page
        await self._store.delete(stream_id)
        return await self._store.read(stream_id, offset)


async def test_a_stream_that_is_deleted_in_the_source_leaves_no_half_copy():
    async with MemoryStreamStore() as source, MemoryStreamStore() as target:
        await source.create("s", *[LARGE] * 20)
        with pytest.raises(StreamNotFound):
            await Transfer(Vanishing(source), target).bring("s")
        assert [info async for info in target.list()] == []


def test_a_full_disk_is_one_line_and_a_second_run_finishes(source, target):
    use(source, fill)
    bound = with_small_files(3_000_000)
    full = run("copy", source, target, "--retry-for", "0", preexec_fn=bound)
    assert full.returncode in (5, 6), full.stderr
    assert len(full.stderr.splitlines()) <= 3  # two streams are still streaming
    copied(source, target)
    assert use(target, everything) == use(source, everything)


def test_wrong_urls_say_which_store_it_was(source, target):
    use(source, fill)
    for wrong, code in (
        ("nonsense", 2),
        ("env:NOT_SET_ANYWHERE", 2),
        ("redis://127.0.0.1:1", 5),
        ("postgresql://nobody@127.0.0.1:1/none", 5),
        ("sqlite:////nowhere/at/all.db", 5),
    ):
        result = run("copy", source, wrong)
        assert (result.returncode, result.stdout) == (code, b""), result.stderr
        (line,) = result.stderr.splitlines()
        assert b"target store" in line or b"NOT_SET" in line
        assert b"source store" in run("copy", wrong, target).stderr or b"env:" in wrong.encode()
    assert run("copy", source, source).returncode == 2


def test_the_urls_can_be_in_the_environment(source, target, monkeypatch):
    use(source, lambda store: store.create("s", b"x"))
    monkeypatch.setenv("FROM", source)
    monkeypatch.setenv("TO", target)
    assert copied("env:FROM", "env:TO")[0] == {"s": "copied"}


def test_wrong_credentials_and_missing_rights_are_one_line(source):
    use(source, lambda store: store.create("s", b"x"))
    with redis_servers.own_server("valkey", "--requirepass", "right") as server:
        wrong = server.url.replace("//", "//:wrong-secret@")
        result = run("copy", source, wrong, "--retry-for", "0")
    assert result.returncode == 5
    assert b"wrong-secret" not in result.stderr
    with postgres_servers.fresh_schema(postgres_servers.shared()) as url:
        use(url, everything)
        with postgres_servers.limited_user(url, "SELECT") as limited:
            result = run("copy", source, limited, "--retry-for", "0")
    assert result.returncode == 5
    assert b"permission denied" in result.stderr


def test_a_target_of_a_newer_schema_is_refused(source, target):
    use(source, fill)
    use(target, everything)
    connection = sqlite3.connect(target.removeprefix("sqlite:///"))
    connection.execute("UPDATE streamstores_schema SET version = 99")
    connection.commit()
    connection.close()
    result = run("copy", source, target)
    assert (result.returncode, b"newer" in result.stderr) == (5, True)


def test_a_bucket_that_does_not_exist_is_one_line(source):
    use(source, lambda store: store.create("s", b"x"))
    url = urlsplit(s3_servers.shared().url())._replace(netloc="no-such-bucket").geturl()
    result = run("copy", source, url, "--retry-for", "0")
    assert result.returncode in (2, 5), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_relative_expiry_begins_anew_and_an_absolute_one_is_kept(source, target):
    use(source, fill)
    copied(source, target)
    empty = use(target, lambda store: store.info("empty"))
    assert (empty.expires_at, empty.state) == (LATER, State.STREAMING)
    now = datetime.now(timezone.utc)
    odd = next(iter(use(target, _odd)))
    assert now + timedelta(seconds=4000) < odd.expires_at < now + timedelta(seconds=5001)


async def _odd(store: StreamStore) -> list[object]:
    return [info async for info in store.list("a/")]
