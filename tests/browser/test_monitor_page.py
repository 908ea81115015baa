"""The monitor's page as an operator sees it; its screenshots go to artifacts/browser/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from streamstores import MemoryStreamStore
from streamstores.http import StreamRequest, create_stream_handler
from streamstores.http.monitor import create_monitor, only_loopback
from tests.browser.client import POLL_MS
from tests.browser.conftest import ARTIFACTS, DemoServer, OpenPage, fixture
from tests.http.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
OTHER_LOOKS = (pytest.param(each, marks=pytest.mark.long) for each in LOOKS if each != "light")
SOME_LOOKS = ["light", *OTHER_LOOKS]


class Busy:
    """A store with streams of every kind, a handler, and clients that read from both."""

    def __init__(self, store: MemoryStreamStore, url: str, client: httpx.AsyncClient) -> None:
        self.store = store
        self.url = url
        self._client = client
        self._work: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        for user, state in [
            ("ann", "done"),
            ("ben", "stopped"),
            ("cem", "error"),
            ("dia", "done"),
        ]:
            stream_id = f"{user}/3f9a-{user}-of-a-while-ago"
            attributes = {"model": "smart"}
            await self.store.create(stream_id, b"x" * 3456, ttl=86_400, attributes=attributes)
            error = "The model failed." if state == "error" else None
            await self.store.mark_done(stream_id, state, error=error)
        await self.store.create("import/<b>job</b> 🌊 " + "long-" * 30, b"x" * 1_048_576)
        await self.store.create("gus/lost-producer", b"x" * 99, attributes={"owner": "gone"})
        # As if it had been silent for a while: the monitor would have to look for as long.
        stream = self.store._streams["gus/lost-producer"]
        earlier = stream.info.updated_at - timedelta(minutes=5)
        stream.info = stream.info._replace(updated_at=earlier)
        for user in "ann", "eva", "fay":
            self._work.append(asyncio.create_task(self._read(f"{user}/answer-{user}")))
        self._work.append(asyncio.create_task(self._read("ann/answer-ann")))

    async def _read(self, stream_id: str) -> None:
        body = {"prompt": "hi", "id": stream_id}
        async with self._client.stream("POST", f"{self.url}/chat/stream", json=body) as answer:
            async for _ in answer.aiter_raw():
                pass

    async def end(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)


async def talkative(request: StreamRequest) -> AsyncIterator[str]:
    while True:
        yield "word " * 20
        await asyncio.sleep(0.02)


def may_change(request: Request, stream_id: str, action: str) -> bool:
    return not stream_id.startswith("import/")


@fixture
async def busy() -> AsyncIterator[Busy]:
    async with MemoryStreamStore() as store, httpx.AsyncClient(timeout=30) as client:
        handler = create_stream_handler({"smart": talkative}, store)
        monitor = create_monitor(
            store,
            authorize=only_loopback,
            authorize_action=may_change,
            handler=handler,
            interval=0.1,
        )
        async with handler, monitor:
            app = Starlette(routes=[Mount("/chat", handler), Mount("/monitor", monitor)])
            async with serving(app) as url:
                busy = Busy(store, url, client)
                yield busy
                await busy.end()
                await monitor.aclose()
                await handler.aclose()


async def until(page: Any, condition: str) -> None:
    """Evaluated by the browser, because the policy of the page forbids it to evaluate text."""
    while not await page.evaluate(condition):
        await asyncio.sleep(POLL_MS / 1000)


async def shown(page: Any) -> list[str]:
    texts: list[str] = await page.locator("#rows td.id").all_text_contents()
    return texts


@pytest.mark.parametrize("look", SOME_LOOKS)
async def test_the_page_shows_the_live_streams_and_fits_the_window(
    open_page: OpenPage, busy: Busy, look: str
) -> None:
    page = await open_page(busy.url + "/monitor/", **LOOKS[look])
    await page.get_by_text("No streams. They appear here as they are begun.").wait_for()
    await busy.fill()
    await until(page, "document.querySelectorAll('#rows tr').length === 9")
    await until(page, "document.querySelectorAll('#rows .grows').length === 3")
    await until(page, "document.getElementById('edge').getAttribute('d').length > 600")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=ARTIFACTS / f"monitor-{look}.png", full_page=True)
    shown_sums = ("streaming", "stopped", "stale", "followers")
    sums = [await page.locator(f"#{each}").text_content() for each in shown_sums]
    assert sums == ["5", "1", "1", "4"]
    lost = page.locator("tr", has=page.get_by_text("gus/lost-producer", exact=True))
    assert (await lost.locator("td").first.text_content()).startswith("stale 5 min")
    label = await page.locator("#plot").get_attribute("aria-label")
    assert label.startswith("Bytes written a second: now ")
    row = page.locator("tr", has=page.get_by_text("ann/answer-ann", exact=True))
    cells = await row.locator("td").all_text_contents()
    assert (cells[0], cells[2], cells[5], cells[6]) == ("streaming", "smart", "2", "here")
    assert await page.locator("b").count() == 0, "an id became markup"
    widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] == widths[1], "the page scrolls sideways"


async def test_the_prefix_chooses_and_streams_that_end_leave(
    open_page: OpenPage, busy: Busy
) -> None:
    await busy.fill()
    page = await open_page(busy.url + "/monitor/")
    await page.get_by_label("Ids that begin with").fill("ben/")
    await until(page, "document.querySelectorAll('#rows tr').length === 1")
    [stream_id] = await shown(page)
    assert stream_id.startswith("ben/")
    await busy.store.delete(stream_id)
    await page.get_by_text("No stream has an id that begins so.").wait_for()


async def test_a_hidden_page_asks_nothing_and_a_refused_one_says_why(
    open_page: OpenPage, busy: Busy
) -> None:
    page = await open_page(busy.url + "/monitor/")
    await page.get_by_text("live", exact=True).wait_for()
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    page.on("requestfailed", lambda request: ended.done() or ended.set_result(request.url))
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    assert "/monitor/events" in await asyncio.wait_for(ended, 30)
    busy.store.capabilities = busy.store.capabilities - {"list"}
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: false });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    await page.get_by_text("this store does not list its streams").wait_for()


async def test_the_page_needs_nothing_from_elsewhere(open_page: OpenPage, busy: Busy) -> None:
    page = await open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(busy.url + "/monitor/")
    await page.get_by_text("live", exact=True).wait_for()
    assert [url for url in asked if not url.startswith((busy.url, "data:"))] == []


async def test_the_demo_leads_to_its_monitor(open_page: OpenPage, demo: DemoServer) -> None:
    page = await open_page(demo.url + "/")
    async with page.context.expect_page() as opening:
        await page.get_by_role("link", name="Monitor").click()
    monitor = await opening.value
    await monitor.get_by_text("live", exact=True).wait_for()


async def open_dialog(page: Any, stream_id: str) -> None:
    button = page.get_by_role("button", name=f"Change the stream {stream_id}", exact=True)
    await button.focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog", name="Change a stream").wait_for()


async def test_an_operator_stops_and_deletes_with_the_keyboard_after_confirming(
    open_page: OpenPage, busy: Busy
) -> None:
    await busy.fill()
    page = await open_page(busy.url + "/monitor/")
    await until(page, "document.querySelectorAll('#rows tr').length === 9")
    await open_dialog(page, "gus/lost-producer")
    assert (await busy.store.info("gus/lost-producer")).state == "streaming"
    await page.keyboard.press("Enter")  # the first choice is to stop it
    row = page.locator("tr", has=page.get_by_text("gus/lost-producer", exact=True))
    await row.get_by_text("stopped", exact=True).wait_for()
    await open_dialog(page, "gus/lost-producer")
    assert await page.get_by_label("Stop it").is_disabled()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    await open_dialog(page, "gus/lost-producer")
    await page.keyboard.press("ArrowDown")
    await page.get_by_role("button", name="Delete the stream").click()
    await row.wait_for(state="detached")


async def test_an_expiry_is_set_and_a_refusal_is_shown_in_the_dialog(
    open_page: OpenPage, busy: Busy
) -> None:
    await busy.fill()
    page = await open_page(busy.url + "/monitor/")
    await until(page, "document.querySelectorAll('#rows tr').length === 9")
    await open_dialog(page, "gus/lost-producer")
    await page.get_by_label("Expire it").check()
    await page.get_by_label("When").select_option("in a day")
    await page.get_by_role("button", name="Expire the stream").click()
    row = page.locator("tr", has=page.get_by_text("gus/lost-producer", exact=True))
    await row.get_by_text("24 h", exact=True).wait_for()
    [long_id] = [each for each in await shown(page) if each.startswith("import/")]
    await open_dialog(page, long_id)
    await page.get_by_role("button", name="Stop the stream").click()
    await page.get_by_role("alert").get_by_text("this is not allowed").wait_for()
    assert (await busy.store.info(long_id)).state == "streaming"
