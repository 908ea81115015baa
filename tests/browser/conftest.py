"""A real browser, pages in it, and the servers they talk to."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.browser.proxy import Proxy
from tests.browser.serve import PARTS
from tests.services import free_port, give_up

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts" / "browser"
CHROMIUM_ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

fixture = pytest_asyncio.fixture(loop_scope="session")
shared_fixture = pytest_asyncio.fixture(loop_scope="session", scope="session")


@shared_fixture
async def browser() -> AsyncIterator[Any]:
    """Debian's chromium, with the back-forward cache, which Playwright switches off."""
    path = shutil.which("chromium")
    if path is None:
        give_up("browser", "chromium is not installed")
    try:
        from playwright.async_api import async_playwright  # may be absent
    except ImportError as exc:
        give_up("browser", exc)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=CHROMIUM_ARGS,
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        await browser.close()


OpenPage = Callable[..., Awaitable[Any]]


@fixture
async def open_page(browser: Any) -> AsyncIterator[OpenPage]:
    """Opens pages in new profiles, or in `context`; an error of a page fails the test."""
    errors: list[str] = []
    async with AsyncExitStack() as contexts:

        async def open_one(url: str, context: Any = None, **options: Any) -> Any:
            if context is None:
                context = await browser.new_context(**options)
                contexts.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(url)
            return page

        yield open_one
    assert errors == []


class DemoServer:
    """`tests.browser.serve` as a child process, on a port and a store that outlive it."""

    def __init__(self, store_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            *(sys.executable, "-m", "tests.browser.serve"),
            *("--port", str(self.port), "--store", store_url),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command, cwd=ROOT)
        while not await self._answers():
            assert self._process.returncode is None, "the server did not start"
            await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def go(self, prompt: str, parts: int = len(PARTS)) -> None:
        """Let more parts of the answer to a prompt be written, by default to its end."""
        async with httpx.AsyncClient() as client:
            params: dict[str, Any] = {"prompt": prompt, "parts": parts}
            response = await client.post(self.url + "/go", params=params)
        assert response.status_code == 200

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@shared_fixture
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DemoServer]:
    """A demo server on SQLite that all tests share."""
    server = DemoServer(f"sqlite:///{tmp_path_factory.mktemp('demo') / 'streams.db'}")
    await server.start()
    yield server
    await server.kill()


@fixture
async def mortal_demo(tmp_path: Path) -> AsyncIterator[DemoServer]:
    """A demo server of the test's own, to be killed and started again."""
    server = DemoServer(f"sqlite:///{tmp_path / 'streams.db'}")
    await server.start()
    yield server
    await server.kill()


@fixture
async def proxy(demo: DemoServer) -> AsyncIterator[Proxy]:
    """A breakable network to the demo server."""
    async with Proxy(demo.port) as proxy:
        yield proxy
