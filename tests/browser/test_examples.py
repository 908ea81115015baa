"""The plain pages of the examples and of docs/javascript.md, in a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from streamstores.http import create_stream_handler
from streamstores.integrations.models import BUILT_IN_TEXT, text_source
from tests.browser.client import POLL_MS, TIMEOUT_MS
from tests.browser.conftest import ROOT, OpenPage
from tests.http.serving import serving

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

EXAMPLE = (ROOT / "examples/javascript/plain.html").read_text()
GUIDE = (ROOT / "docs/javascript.md").read_text()
IN_GUIDE = re.findall(r"```html\n(.*?)```", GUIDE, re.DOTALL)


@asynccontextmanager
async def served(html: str, word_seconds: float) -> AsyncIterator[str]:
    async with create_stream_handler(text_source(delay=word_seconds)) as handler:
        page = Route("/", lambda request: HTMLResponse(html))
        async with serving(Starlette(routes=[page, Mount("/chat", handler)])) as url:
            yield url


async def until_text(page: Any, condition: str) -> None:
    await page.wait_for_function(
        f"(it) => document.querySelector('output').textContent {condition}",
        arg=BUILT_IN_TEXT,
        polling=POLL_MS,
        timeout=TIMEOUT_MS,
    )


@pytest.mark.parametrize("html", [EXAMPLE, *IN_GUIDE], ids=["example", "guide"])
async def test_a_plain_page_survives_a_reload(open_page: OpenPage, html: str) -> None:
    async with served(html, 0.005) as url:
        page = await open_page(url)
        await page.get_by_label("Prompt").fill("hi")
        await page.get_by_role("button", name="Send").click()
        await until_text(page, "!== ''")
        await page.reload()
        await until_text(page, "=== it")
        await page.context.close()


async def test_stop_and_continue_in_the_example(open_page: OpenPage) -> None:
    async with served(EXAMPLE, 0.1) as url:  # too slow to end within the test
        page = await open_page(url)
        await page.get_by_label("Prompt").fill("hi")
        await page.keyboard.press("Enter")
        await until_text(page, "!== ''")
        await page.get_by_role("button", name="Stop").click()
        await page.get_by_role("status").filter(has_text="stopped").wait_for()
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_role("status").filter(has_text="streaming").wait_for()
        await page.context.close()
