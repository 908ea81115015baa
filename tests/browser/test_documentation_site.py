"""The documentation site as a reader meets it, on a wide screen and on a phone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.browser.client import TIMEOUT_MS
from tests.browser.conftest import ROOT, OpenPage
from tests.made_once import made_once

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = ("", "guarantees/", "reference/streams/", "performance/", "comparison/")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built for these tests."""
    folder = made_once(tmp_path_factory, "site", build_site)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def build_site(folder: Path) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "documentation.py"), "--out", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.mark.parametrize("screen", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_fit_the_screen_and_ask_no_other_server(
    site: str, open_page: OpenPage, screen: dict[str, int], scheme: str
) -> None:
    page = await open_page(site, viewport=screen, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        await page.goto(site + name)
        await page.wait_for_load_state("networkidle")
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= screen["width"], name
    dark = await page.evaluate("document.body.dataset.mdColorScheme")
    assert dark == ("slate" if scheme == "dark" else "default")
    assert asked
    assert [url for url in asked if not url.startswith(site)] == []


async def test_the_search_finds_a_guide(site: str, open_page: OpenPage) -> None:
    page = await open_page(site, viewport=WIDE)
    await page.wait_for_load_state("networkidle")
    await page.get_by_role("button", name="Search").click()
    # The dialog takes the focus when it has opened; its field is in a closed shadow tree.
    await page.wait_for_function("document.activeElement.tagName === 'DIV'")
    await page.keyboard.type("takeover")
    found = page.locator("a[href*='decisions/one-producer/?h=takeover']")
    await found.first.wait_for(timeout=TIMEOUT_MS)


async def test_the_reference_has_the_contract_with_its_signatures(
    site: str, open_page: OpenPage
) -> None:
    page: Any = await open_page(site + "reference/contract/", viewport=WIDE)
    text = await page.locator("article").inner_text()
    for part in ("Linearizable per stream.", "append", "attributes: Mapping", "created_at"):
        assert part in text
