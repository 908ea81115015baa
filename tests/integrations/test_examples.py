"""The programs in `examples`, run as their READMEs say."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.http.serving import KEEP_ALIVE
from tests.services import free_port

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parents[2] / "examples"


def copied(example: str, folder: Path) -> str:
    """The application of an example, copied to where it runs and leaves its files."""
    (folder / "server.py").write_text((EXAMPLES / example / "server.py").read_text())
    return "server:create_app"


@asynccontextmanager
async def running(app: str, folder: Path, port: int):
    """A server of an example, in an empty folder, killed at the end."""
    arguments = ("--port", str(port), "--factory", app, *KEEP_ALIVE)
    async with program(folder, "uvicorn", *arguments) as child:
        await until_said(child, b"running on")
        yield child


@asynccontextmanager
async def program(folder: Path, module: str, *arguments: str):
    """A program of an installed package, in a folder, killed at the end."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def until_said(child: asyncio.subprocess.Process, words: bytes) -> None:
    """Wait until a program has written these words to its log."""
    assert child.stderr is not None
    while words not in (line := await child.stderr.readline()):
        assert line, "the program has ended"


@asynccontextmanager
async def client(script: str, *arguments: str):
    """A client of an example, killed at the end if it is still running."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def output_of(example: str, folder: Path, path: str = "") -> bytes:
    """What the client of an example prints, with its server beside it."""
    app, port = copied(example, folder), free_port()
    url = f"http://127.0.0.1:{port}{path}"
    async with running(app, folder, port), client(f"{example}/client.py", url) as asking:
        return await rest_of(asking)


async def rest_of(asking: asyncio.subprocess.Process) -> bytes:
    """The rest of what a client prints. Asserts that it ends well."""
    said, errors = await asyncio.wait_for(asking.communicate(), 120)
    assert asking.returncode == 0, errors.decode()
    return said


async def test_the_openai_client_gets_the_whole_response_from_a_server_that_is_killed(
    tmp_path: Path,
):
    app, port = copied("openai_responses", tmp_path), free_port()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(app, tmp_path, port))
        url = f"http://127.0.0.1:{port}/v1"
        asking = await stack.enter_async_context(client("openai_responses/client.py", url))
        said = await asking.stdout.readexactly(40)
        server.kill()
        await server.wait()
        await stack.enter_async_context(running(app, tmp_path, port))
        assert said.startswith(b"It was the best")
        assert (await rest_of(asking)).endswith(b"complete\n")


async def test_the_client_of_a_fastapi_endpoint_leaves_and_comes_back(tmp_path: Path):
    said = await output_of("fastapi", tmp_path)
    assert said.startswith(b"It was the best of (away) times")
    assert said.endswith(b"complete\n")


async def test_the_client_of_an_assistant_stream_leaves_and_comes_back(tmp_path: Path):
    away, whole, end, _ = (await output_of("assistant_stream", tmp_path)).decode().split("\n")
    assert away.split() == ["It", "was", "the", "best", "of", "(away)"]
    assert whole.endswith("the age of wisdom. ")
    assert end == "complete"


async def test_the_langgraph_client_joins_its_run_again(tmp_path: Path):
    said = await output_of("langgraph", tmp_path)
    assert said.startswith(b"You (away) ")
    assert said.endswith(b"complete\n")


async def test_the_mcp_client_gets_every_message_once_over_a_network_that_breaks(
    tmp_path: Path,
):
    numbers, last, _ = (await output_of("mcp", tmp_path, "/mcp")).decode().split("\n")
    assert "(broken)" in numbers
    assert numbers.replace("(broken) ", "").split() == [str(number) for number in range(1, 13)]
    assert last == "I have counted to 12"


async def test_the_a2a_client_joins_its_task_in_another_server(tmp_path: Path):
    copied("a2a", tmp_path)
    ports = [free_port(), free_port()]
    (tmp_path / "servers.py").write_text(
        "from server import create_app\n"
        f"def first(): return create_app(port={ports[0]})\n"
        f"def second(): return create_app(port={ports[1]})\n"
    )
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(running(f"servers:{name}", tmp_path, port))
            for name, port in zip(("first", "second"), ports, strict=True)
        ]
        names = [str(port) for port in ports]
        asking = await stack.enter_async_context(client("a2a/client.py", *names))
        sentence = (
            b"It was the best of times, it was the worst of times, it was the age of wisdom."
        )
        assert await rest_of(asking) == b"left\n" + sentence + b" \nTASK_STATE_COMPLETED\n"

        asking = await stack.enter_async_context(client("a2a/client.py", *names))
        assert await asking.stdout.readexactly(5) == b"left\n"
        await asking.stdout.readexactly(6)
        servers[0].kill()
        assert (await rest_of(asking)).endswith(b"\nTASK_STATE_FAILED\n")


@asynccontextmanager
async def celery_and_flask(folder: Path):
    """The URL of the Flask server of an example, whose Celery worker runs beside it."""
    copied("flask_celery", folder)
    port = free_port()
    async with AsyncExitStack() as stack:
        for module, arguments, ready in (
            ("celery", ("-A", "server.celery", "worker", "-c", "1", "-l", "INFO"), b"ready."),
            ("flask", ("--app", "server", "run", "--port", str(port)), b"Running on"),
        ):
            child = await stack.enter_async_context(program(folder, module, *arguments))
            await until_said(child, ready)
        yield f"http://127.0.0.1:{port}"


async def test_the_client_of_a_flask_view_gets_what_a_celery_worker_produces(tmp_path: Path):
    async with (
        celery_and_flask(tmp_path) as url,
        client("flask_celery/client.py", url) as asking,
    ):
        said = await rest_of(asking)
    assert said.startswith(b"It was the best of (away) times")
    assert said.endswith(b"complete\n")
