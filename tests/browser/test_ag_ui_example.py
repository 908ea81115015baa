"""The page of examples/pydantic_ai, in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser.client import TIMEOUT_MS
from tests.http.cutting_proxy import cutting_proxy
from tests.integrations.test_examples import EXAMPLES, copied, running
from tests.services import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

SENTENCE = "one two three four five six seven eight nine ten eleven twelve"
STATUS = "document.querySelector('#status').textContent"
TEXT = "document.querySelector('output').textContent"


async def test_a_reload_and_a_second_tab_show_the_same_run_and_stop_ends_it_for_both(
    tmp_path: Path, open_page
):
    app = copied("pydantic_ai", tmp_path)
    shutil.copy(EXAMPLES / "pydantic_ai/index.html", tmp_path)
    port = free_port()
    async with running(app, tmp_path, port):
        page = await open_page(f"http://127.0.0.1:{port}/")
        await send(page, SENTENCE)
        await page.wait_for_function(f"{TEXT}.includes('two')", timeout=TIMEOUT_MS)
        await page.reload()
        other = await open_page(page.url)
        for each in (page, other):
            await each.wait_for_function(f"{STATUS} === 'RUN_FINISHED'", timeout=TIMEOUT_MS)
            assert (await each.evaluate(TEXT)).strip() == SENTENCE

        await send(page, f"{SENTENCE} {SENTENCE} {SENTENCE} {SENTENCE}")
        await page.wait_for_function(f"{TEXT}.includes('two')", timeout=TIMEOUT_MS)
        other = await open_page(page.url)
        await other.wait_for_function(f"{TEXT}.includes('two')", timeout=TIMEOUT_MS)
        await other.locator("#stop").click()
        for each in (page, other):
            await each.wait_for_function(
                f"{STATUS} === 'RUN_ERROR: The run was stopped.'", timeout=TIMEOUT_MS
            )


async def test_the_page_asks_again_when_its_connection_is_cut(tmp_path: Path, open_page):
    app = copied("pydantic_ai", tmp_path)
    shutil.copy(EXAMPLES / "pydantic_ai/index.html", tmp_path)
    port = free_port()
    async with (
        running(app, tmp_path, port),
        cutting_proxy(f"http://127.0.0.1:{port}") as (proxy, url),
    ):
        page = await open_page(url)
        await send(page, SENTENCE)
        await page.wait_for_function(f"{TEXT}.includes('two')", timeout=TIMEOUT_MS)
        before = proxy.connections
        proxy.cut()
        await page.wait_for_function(f"{STATUS} === 'RUN_FINISHED'", timeout=TIMEOUT_MS)
        assert (await page.evaluate(TEXT)).strip() == SENTENCE
        assert proxy.connections > before


async def send(page, prompt: str) -> None:
    await page.locator("input").fill(prompt)
    await page.locator("form button").click()
