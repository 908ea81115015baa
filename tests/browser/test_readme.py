"""The chat of the README in a browser, as a newcomer copies it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.client import POLL_MS, TIMEOUT_MS
from tests.browser.conftest import ROOT, OpenPage
from tests.http.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


async def until_output(page: Any, condition: str) -> None:
    await page.wait_for_function(
        f"() => document.querySelector('output').textContent{condition}",
        polling=POLL_MS,
        timeout=TIMEOUT_MS,
    )


async def test_a_reload_keeps_the_answer_and_asks_for_no_second_one(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.html").write_text(block("html"))
    (tmp_path / "readme_app.py").write_text(
        block("python").replace("sleep(0.5)", "sleep(0.05)")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "readme_app", raising=False)
    import readme_app

    async with serving(readme_app.app) as url:
        page = await open_page(url)
        methods: list[str] = []
        page.on("request", lambda request: methods.append(request.method))
        await page.get_by_label("Prompt").fill(" ".join(f"word{n}" for n in range(40)))
        await page.get_by_role("button", name="Send").click()
        await until_output(page, ".includes('word3 ')")
        await page.reload()
        await until_output(page, ".startsWith('[done] word0 word1 ')")
        await until_output(page, ".endsWith('word39 ')")
        assert methods.count("POST") == 1
        await page.reload()
        await until_output(page, ".startsWith('[done] word0 word1 ')")
        assert methods.count("POST") == 1
        await page.context.close()
