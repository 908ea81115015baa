"""The programs in docs/frameworks.md, each served by uvicorn as it stands there, and ended."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.serving import Events, Received, names, text_of
from tests.services import free_port

GUIDE = Path(__file__).parents[2] / "docs" / "frameworks.md"
PROGRAMS: dict[str, str] = dict(
    re.findall(
        r"^## (\w+)$(?:(?!^## ).)*?^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S
    )
)
PATH_OF_ITS_OWN = {"FastAPI": "/me", "Django": "/sign-in"}
WORDS = [f"{n} " for n in range(200)]


class Server:
    """A program under uvicorn, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "always::ResourceWarning", "-m", "uvicorn", "main:app"),
            *("--port", str(self.port)),
            cwd=self.folder,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self.process.stderr is not None
        while b"Uvicorn running" not in (line := await self.process.stderr.readline()):
            assert line, "the server did not start"

    async def has_ended(self) -> str:
        """The log since its start. Asserts that it ended by the signal."""
        _, said = await self.process.communicate()
        assert self.process.returncode in (0, -signal.SIGTERM)
        return said.decode()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


@pytest.fixture(params=["FastAPI", "Starlette", "Litestar", "Django"])
async def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def server(framework: str, tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "main.py").write_text(PROGRAMS[framework])
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def ann(framework: str, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the credentials of a user called ann."""
    headers = {"Authorization": "Bearer ann's token"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
        if framework in PATH_OF_ITS_OWN:
            answer = await client.get(PATH_OF_ITS_OWN[framework])
            assert (answer.status_code, "ann" in answer.text) == (200, True)
        yield client


@asynccontextmanager
async def events_of(
    client: httpx.AsyncClient, path: str, **fields: Any
) -> AsyncIterator[Events]:
    async with client.stream("POST", f"/ai/stream{path}", json=fields) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


async def test_an_answer_goes_on_through_a_restart_of_the_server(
    server: Server, ann: httpx.AsyncClient
) -> None:
    async with events_of(ann, "", prompt="count", id="ann/answer") as events:
        received: list[Received] = [await events.next() for _ in range(20)]
        server.process.send_signal(signal.SIGTERM)
        received += await events.rest()
    said = await server.has_ended()
    assert "ResourceWarning" not in said
    assert "Traceback" not in said
    assert "done" not in names(received)
    await server.start()
    after = received[-1].id
    async with events_of(ann, "/resume", id="ann/answer", after=int(after or 0)) as events:
        received += await events.rest()
    assert text_of(received) == "".join(WORDS)
    assert names(received)[-1] == "done"


async def test_other_users_are_refused(server: Server, ann: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as stranger:
        for client, stream_id in (
            (stranger, "ann/answer"),
            (stranger, None),
            (ann, "ben/answer"),
        ):
            fields = {"prompt": "count", "id": stream_id}
            answer = await client.post("/ai/stream", json=fields)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert (await stranger.get("/ai/stream.js")).status_code == 200


async def test_ids_made_by_the_server_belong_to_the_user(
    framework: str, server: Server, ann: httpx.AsyncClient
) -> None:
    if framework == "Django":  # whose guide leaves the ids to the clients
        assert (await ann.post("/ai/stream", json={"prompt": "count"})).status_code == 403
        return
    async with events_of(ann, "", prompt="count") as events:
        made = (await events.next()).data
    assert made.startswith("ann/")
    answer = await ann.post("/ai/stream/stop", json={"id": made})
    assert (answer.status_code, answer.json()["state"]) == (200, "stopped")
