"""pydantic-ai behind AG-UI, with `@ag-ui/client` in Node as the client, and behind the Vercel
adapter.

The npm package comes from npm, or from the folder that `STREAMSTORES_TEST_AG_UI` names.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.integrations.conftest import EVERY_STORE
from tests.integrations.node_clients import script_with_package
from tests.integrations.processes import Process, Start

pytestmark = pytest.mark.long

APP = "tests.integrations.pydantic_ai_app:app"
CLIENT = Path(__file__).with_name("ag_ui_client.mjs")


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Node, and the script of the client."""
    return "node", script_with_package(CLIENT, "@ag-ui/client@1", tmp_path_factory)


class Tab:
    """One client in Node."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def begun(self) -> None:
        assert self._child.stdout is not None
        assert await self._child.stdout.readline() == b"begun\n"

    async def result(self) -> dict:
        out, errors = await self._child.communicate()
        assert self._child.returncode == 0, errors.decode()
        return json.loads(out.splitlines()[-1])


class Browser:
    """Opens clients of the processes of the agent."""

    def __init__(self, node, stack: AsyncExitStack, processes: list[Process]) -> None:
        self._node, self._stack, self.processes = node, stack, processes

    async def open(self, number: int, prompt: str, *, run="r", user="alice", **more) -> Tab:
        options = {
            "url": f"{self.processes[number % len(self.processes)].url}/agent",
            "thread": "t",
            "run": run,
            "prompt": prompt,
            "user": user,
            **more,
        }
        words = [f"--{name}={value}" for name, value in options.items() if value is not True]
        flags = [f"--{name}" for name, value in options.items() if value is True]
        child = await asyncio.create_subprocess_exec(
            *self._node,
            *words,
            *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._stack.push_async_callback(_end, child)
        return Tab(child)

    async def stop(self, number: int, run: str = "r", user: str = "alice") -> bool:
        process = self.processes[number % len(self.processes)]
        url = f"{process.url}/agent/t/{run}/stop"
        return (await process.client.post(url, headers={"x-user": user})).json()["stopped"]


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()
    await child.communicate()


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file for which the model waits half-way."""
    return tmp_path / "go"


@pytest.fixture
async def browser(node, start: Start, store_url: str, go: Path):
    count = 1 if store_url.startswith("memory") else 2
    async with AsyncExitStack() as stack:
        processes = [await start(APP, GO=str(go)) for _ in range(count)]
        yield Browser(node, stack, processes)


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


@EVERY_STORE
async def test_a_cut_run_goes_on_and_every_tab_gets_all_of_it(browser, go, calls):
    cut = await (await browser.open(0, "60 0.005", until=5, cut=True)).result()
    assert said(60).startswith(cut["answer"])
    tabs = [await browser.open(number, "60 0.005", until=10) for number in (0, 1)]
    for tab in tabs:
        await tab.begun()
    go.touch()
    for tab in tabs:
        result = await tab.result()
        assert result["answer"] == said(60)
        assert (result["types"][0], result["types"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
        assert result["ids"] == cut["ids"], "the message keeps its id"
        assert result["error"] is None
    late = await (await browser.open(1, "60 0.005")).result()
    assert (late["answer"], late["types"][-1]) == (said(60), "RUN_FINISHED")
    assert calls() == 1


async def test_two_starts_at_once_are_one_run(browser, go, calls):
    go.touch()
    tabs = [await browser.open(number, "40 0.01") for number in (0, 1, 0, 1)]
    results = [await tab.result() for tab in tabs]
    assert [result["answer"] for result in results] == [said(40)] * 4
    assert calls() == 1


@EVERY_STORE
async def test_a_stop_ends_its_run_for_all_tabs_and_no_other(browser, go, calls):
    first = await (await browser.open(0, "2 0", run="r0", until=1, cut=True)).result()
    assert first["failure"] is None
    tabs = [await browser.open(number, "60 0.01", until=5) for number in (0, 1)]
    for tab in tabs:
        await tab.begun()
    assert not await browser.stop(1, run="another")
    assert not await browser.stop(1, user="mallory")
    assert await browser.stop(1)
    for tab in tabs:
        result = await tab.result()
        assert result["types"][-1] == "RUN_ERROR"
        assert result["error"]["code"] == "stopped"
        assert said(60).startswith(result["answer"])
    go.touch()
    after = await (await browser.open(0, "3 0", run="r2")).result()
    assert (after["answer"], after["types"][-1]) == (said(3), "RUN_FINISHED")
    assert not await browser.stop(0, run="r2"), "a run that has ended stays as it is"
    again = await (await browser.open(1, "3 0", run="r2")).result()
    assert again["types"][-1] == "RUN_FINISHED"


async def test_the_run_of_a_killed_process_ends_in_an_error_and_no_tab_hangs(browser):
    cut = await browser.open(0, "100000 0.01", until=5)
    await cut.begun()
    tab = await browser.open(1, "100000 0.01", until=5)
    await tab.begun()
    await browser.processes[0].kill()
    result = await asyncio.wait_for(tab.result(), 100)
    assert result["types"][-1] == "RUN_ERROR"
    assert said(100000).startswith(result["answer"])
    assert len(result["answer"].split()) >= 5
    late = await (await browser.open(1, "100000 0.01")).result()
    assert (late["answer"], late["types"][-1]) == (result["answer"], "RUN_ERROR")


async def test_a_model_that_raises_is_an_error_to_every_tab(browser, go):
    go.touch()
    for number in (0, 1):
        result = await (await browser.open(number, "3 0 raise")).result()
        assert (result["answer"], result["types"][-1]) == (said(3), "RUN_ERROR")


async def test_a_run_of_another_user_is_another_run(browser, go, calls):
    go.touch()
    mine = await (await browser.open(0, "5 0")).result()
    other = await (await browser.open(1, "3 0", user="mallory")).result()
    assert (mine["answer"], other["answer"]) == (said(5), said(3))
    assert calls() == 2


async def post(process: Process, **fields) -> httpx.Response:
    headers = fields.pop("headers", None)
    question = {"id": "q", "role": "user", "content": fields.pop("prompt", "2 0")}
    body = {
        "threadId": "t",
        "runId": "r",
        "messages": [question],
        "state": {},
        "tools": [],
        "context": [],
        "forwardedProps": {},
        **fields,
    }
    return await process.client.post(f"{process.url}/agent", json=body, headers=headers)


async def test_ids_that_cannot_be_are_refused(browser, calls):
    [process, _] = browser.processes
    for ids in ({"runId": ""}, {"threadId": ""}, {"runId": "x" * 300}):
        refused = await post(process, **ids)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert calls() == 0


async def test_no_ids_of_two_parts_are_those_of_another_run(browser, go, calls):
    go.touch()
    [process, _] = browser.processes
    first = await post(process, threadId="a", runId="b/c", prompt="2 0")
    second = await post(process, threadId="a/b", runId="c", prompt="3 0")
    assert first.headers["x-stream-id"] != second.headers["x-stream-id"]
    assert calls() == 2


async def test_a_run_that_has_expired_is_run_anew(start, calls):
    process = await start(APP, TTL="1")
    await post(process)
    while calls() == 1:
        await asyncio.sleep(1.2)  # each look restarts the ttl
        await post(process)
    assert calls() == 2


async def test_a_post_that_names_its_last_event_is_sent_the_rest_and_starts_nothing(
    start, calls
):
    process = await start(APP)
    whole = (await post(process)).text
    events = whole.split("\n\n")
    last = next(line for line in events[1].splitlines() if line.startswith("id: "))[4:]
    rest = await post(process, headers={"Last-Event-ID": last})
    assert rest.text == "\n\n".join(events[2:])
    gone = await post(process, runId="gone", headers={"Last-Event-ID": last})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert calls() == 1


async def test_the_vercel_adapter_resumes_in_another_process_and_ends_with_204(
    browser, go, calls
):
    process, other = browser.processes
    parts = [{"type": "text", "text": "40 0.005"}]
    question = {"id": "q", "role": "user", "parts": parts}
    body = {"id": "c", "messages": [question], "trigger": "submit-message"}
    posting = asyncio.ensure_future(process.client.post(f"{process.url}/api/chat", json=body))
    while calls() == 0:
        await asyncio.sleep(0.02)
    async with other.client.stream("GET", f"{other.url}/api/chat/c/stream") as resumed:
        assert resumed.status_code == 200
        go.touch()
        answers = [(await resumed.aread()).decode(), (await posting).text]
    for answer in answers:
        events = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        deltas = [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]
        assert "".join(deltas) == said(40)
    assert calls() == 1
    assert (await other.client.get(f"{other.url}/api/chat/c/stream")).status_code == 204
