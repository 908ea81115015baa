"""The page of examples/flask_celery, in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.browser.client import TIMEOUT_MS
from tests.integrations.test_examples import EXAMPLES, celery_and_flask

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

SENTENCE = "one two three four five six seven eight nine ten eleven twelve"
TEXT = "document.querySelector('p').textContent"


async def test_an_answer_of_a_queue_survives_a_reload_and_a_stop_reaches_its_worker(
    tmp_path: Path, open_page
):
    shutil.copy(EXAMPLES / "flask_celery/index.html", tmp_path)
    async with celery_and_flask(tmp_path) as url:
        page = await open_page(url)
        await send(page, SENTENCE)
        await page.wait_for_function(f"{TEXT}.includes('two')", timeout=TIMEOUT_MS)
        await page.reload()
        await page.wait_for_function(f"{TEXT}.trim() === '{SENTENCE}'", timeout=TIMEOUT_MS)

        await send(page, " ".join([SENTENCE] * 50))  # 600 words, for a minute
        async with page.expect_response(lambda response: response.request.method == "DELETE"):
            await page.get_by_role("button", name="Stop").click()  # perhaps still in the queue
        stream_id = page.url.rpartition("#")[2]
        async with httpx.AsyncClient(timeout=60) as client:
            kept = await client.get(f"{url}/answers/{stream_id}")  # it ends: it was stopped
        assert kept.status_code == 200
        assert kept.text.count("data: ") < 600


async def send(page, prompt: str) -> None:
    await page.get_by_label("Prompt").fill(prompt)
    await page.get_by_role("button", name="Ask").click()
