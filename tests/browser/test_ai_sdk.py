"""`useChat` of the npm package `@ai-sdk/react`, in Chromium, against our endpoints."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integrations.processes import Process, start_process
from tests.integrations.test_examples import running
from tests.made_once import made_once
from tests.services import free_port
from tests.services.npm import install, tool

ROOT = Path(__file__).parents[2]
APP = "tests.integrations.ai_sdk_app:app"
TIMEOUT_MS = 60_000

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built as its README says."""
    return made_once(tmp_path_factory, "ai_sdk", build_example) / "examples/ai_sdk"


def build_example(clone: Path) -> None:
    folder = clone / "examples/ai_sdk"
    shutil.copytree(ROOT / "javascript", clone / "javascript")
    built = shutil.ignore_patterns("node_modules", "app.js")
    shutil.copytree(ROOT / "examples/ai_sdk", folder, ignore=built)
    install(folder)
    subprocess.run([tool("npm"), "run", "build"], cwd=folder, check=True, timeout=120)


@pytest.fixture
async def server(pages: Path, tmp_path: Path) -> AsyncIterator[Process]:
    (tmp_path / "calls").touch()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        environment = {
            "STORE": f"sqlite:///{tmp_path}/streams.db",
            "CALLS": str(tmp_path / "calls"),
            "PAGES": str(pages),
        }
        yield await start_process(stack, client, APP, **environment)


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def send(page: Any, prompt: str) -> None:
    await page.get_by_label("Question").fill(prompt)
    await page.get_by_role("button", name="Send").click()


async def until_shown(page: Any, text: str) -> None:
    await page.wait_for_function(
        "(it) => [...document.querySelectorAll('output')].pop()?.textContent.startsWith(it)",
        arg=text,
        timeout=TIMEOUT_MS,
    )


async def whole_answer(page: Any, count: int, answers: int = 1) -> None:
    await until_shown(page, said(count))
    await page.get_by_role("status").filter(has_text="ready").wait_for(timeout=TIMEOUT_MS)
    shown = await page.locator("output").all_text_contents()
    assert shown[-1] == said(count)
    assert len(shown) == answers, "each answer, not its pieces"


async def test_an_answer_survives_reloads_and_a_second_tab(
    browser: Any,
    open_page: Any,
    server: Process,
    tmp_path: Path,
) -> None:
    context = await browser.new_context()
    page = await open_page(f"{server.url}/#c", context)
    await send(page, "400 0.05")
    await until_shown(page, said(5))
    await page.reload()
    await until_shown(page, said(8))
    tab = await open_page(f"{server.url}/#c", context)
    await page.reload()
    await asyncio.gather(whole_answer(page, 400), whole_answer(tab, 400))
    assert calls(tmp_path) == 1
    await page.reload()
    await page.get_by_role("status").filter(has_text="ready").wait_for()
    await context.close()


@pytest.mark.parametrize("resumed", [False, True])
async def test_stop_is_a_real_stop_and_the_next_answer_is_whole(
    browser: Any,
    open_page: Any,
    server: Process,
    tmp_path: Path,
    resumed: bool,
) -> None:
    context = await browser.new_context()
    page = await open_page(f"{server.url}/#c", context)
    await send(page, "100000 0.02")
    await until_shown(page, said(5))
    if resumed:
        await page.reload()
        await until_shown(page, said(5))
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("status").filter(has_text="ready").wait_for()
    url = f"{server.url}/api/chat/c/stream"
    while (await server.client.get(url)).status_code != 204:
        await asyncio.sleep(0.02)
    await send(page, "20 0.01")
    while calls(tmp_path) == 1:  # the answer that was stopped begins like this one
        await asyncio.sleep(0.02)
    await whole_answer(page, 20, answers=2)
    assert calls(tmp_path) == 2
    await context.close()


async def test_a_lost_tab_does_not_stop_the_answer(
    browser: Any,
    open_page: Any,
    server: Process,
    tmp_path: Path,
) -> None:
    context = await browser.new_context()
    page = await open_page(f"{server.url}/#c", context)
    await send(page, "400 0.05")
    await until_shown(page, said(3))
    await page.close()
    again = await open_page(f"{server.url}/#c", context)
    await whole_answer(again, 400)
    assert calls(tmp_path) == 1
    await context.close()


async def test_the_server_of_the_example_answers_its_page(
    browser: Any, open_page: Any, pages: Path
) -> None:
    port = free_port()
    context = await browser.new_context()
    async with running("server:create_app", pages, port):
        page = await open_page(f"http://127.0.0.1:{port}/", context)
        # So long that it is still being said after the reload, however busy the machine is.
        await send(page, "one two three four five six seven eight nine ten" + " more" * 2000)
        await until_shown(page, "one two")
        await page.reload()
        tab = await open_page(page.url, context)
        for each in (page, tab):
            await until_shown(each, "one two three four five six seven eight nine ten")
    await context.close()
