"""The demo page as a user sees it; screenshots go to artifacts/browser/."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.client import POLL_MS, TIMEOUT_MS
from tests.browser.conftest import ARTIFACTS, DemoServer, OpenPage
from tests.browser.serve import FIRST_PART_BYTES, PARTS, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="session")


class DemoPage:
    """What a user sees of the page, and does with it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    async def ask(self, prompt: str) -> None:
        """Send a prompt; its first part is here when this returns."""
        await self.page.get_by_label("Prompt").fill(prompt)
        await self.page.keyboard.press("Enter")
        await self.until_offset(FIRST_PART_BYTES)

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name).click()

    async def switch_line(self) -> None:
        await self.page.get_by_text("Cut the connection", exact=True).click()

    async def until(self, condition: str, argument: Any = None) -> None:
        await self.page.wait_for_function(
            f"(it) => {condition}", arg=argument, polling=POLL_MS, timeout=TIMEOUT_MS
        )

    async def until_status(self, status: str) -> None:
        await self.until("document.getElementById('badge').textContent === it", status)

    async def until_offset(self, offset: int) -> None:
        await self.until("document.getElementById('offset').textContent === it", f"{offset:,}")

    async def until_complete(self) -> None:
        await self.until_status("done")
        assert await self.answer() == TEXT
        await self.page.get_by_text(f"All {len(TEXT.encode()):,} bytes are here.").wait_for()

    async def answer(self) -> str:
        text: str = await self.page.locator("#answer").evaluate("(node) => node.textContent")
        return text

    async def history(self) -> list[str]:
        """The transitions, oldest first."""
        names: list[str] = await self.page.locator("#history b").all_text_contents()
        return names[::-1]

    async def usable_buttons(self) -> set[str]:
        buttons = self.page.locator("form button:enabled")
        return {text.strip() for text in await buttons.all_inner_texts()}

    async def photograph(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


async def open_demo(open_page: OpenPage, url: str, **options: Any) -> DemoPage:
    page = DemoPage(await open_page(url + "/", **options))
    await page.page.get_by_text("a text for tests").wait_for()
    return page


LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.mark.parametrize("look", LOOKS)
async def test_the_answer_comes_and_the_page_fits(
    open_page: OpenPage, demo: DemoServer, look: str
) -> None:
    demo_page = await open_demo(open_page, demo.url, **LOOKS[look])
    await demo_page.photograph(f"{look}-idle")
    prompt = f"A prompt in {look}"
    await demo_page.ask(prompt)
    await demo_page.until_status("streaming")
    await demo_page.photograph(f"{look}-streaming")
    await demo.go(prompt)
    await demo_page.until_complete()
    await demo_page.photograph(f"{look}-done")
    assert await demo_page.history() == ["streaming", "done"]
    widths = await demo_page.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] == widths[1], "the page scrolls sideways"


async def test_the_switch_cuts_the_line_until_the_page_gives_up_and_continue_goes_on(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("cut me")
    await demo_page.switch_line()
    await demo_page.until_status("reconnecting")
    await demo_page.photograph("reconnecting")
    await demo.go("cut me", parts=2)
    ahead = len("".join(PARTS[1:3]).encode())
    await demo_page.page.get_by_text(f"The server is {ahead:,} bytes ahead.").wait_for()
    await demo_page.until_status("disconnected")
    assert await demo_page.usable_buttons() == {"Send", "Stop", "Continue", "Regenerate"}
    await demo_page.photograph("disconnected")
    await demo_page.switch_line()
    await demo_page.press("Continue")
    await demo.go("cut me")
    await demo_page.until_complete()
    history = await demo_page.history()
    assert history[:3] == ["streaming", "reconnecting", "disconnected"]
    assert history[3:] == ["reconnecting", "streaming", "done"]


async def test_stop_and_continue(open_page: OpenPage, demo: DemoServer) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("stop me")
    assert await demo_page.usable_buttons() == {"Stop"}
    await demo_page.press("Stop")
    await demo_page.until_status("stopped")
    assert await demo_page.answer() == PARTS[0]
    await demo_page.photograph("stopped")
    await demo_page.press("Continue")
    await demo.go("stop me")
    await demo_page.until_complete()


async def test_a_reload_keeps_the_prompt_and_the_answer(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("reload me")
    await demo_page.page.reload()
    await demo_page.until_offset(FIRST_PART_BYTES)
    assert await demo_page.page.locator("#asked").inner_text() == "reload me"
    await demo.go("reload me")
    await demo_page.until_complete()
    await demo_page.page.reload()
    await demo_page.until_complete()


async def test_regenerate_sends_the_prompt_as_a_new_stream(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("again")
    await demo.go("again", parts=15)  # of two answers
    await demo_page.until_complete()
    first = await demo_page.page.locator("#stream-id").inner_text()
    await demo_page.press("Regenerate")
    await demo_page.until("document.getElementById('stream-id').textContent !== it", first)
    await demo_page.until_complete()


async def test_the_link_opens_the_same_stream_in_a_second_tab(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_demo(open_page, demo.url)
    await first.ask("share me")
    async with first.page.context.expect_page() as opening:
        await first.page.get_by_role("link", name="Open in a second tab").click()
    second = DemoPage(await opening.value)
    await second.until_offset(FIRST_PART_BYTES)
    await second.press("Stop")
    for page in first, second:
        await page.until_status("stopped")
    await second.press("Continue")
    await demo.go("share me")
    await second.until_complete()


async def test_a_page_whose_server_is_killed_goes_on_with_the_next_one(
    open_page: OpenPage, mortal_demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, mortal_demo.url)
    await demo_page.ask("survive")
    await mortal_demo.kill()
    await demo_page.until_status("reconnecting")
    await mortal_demo.start()
    await demo_page.until("['done', 'disconnected'].includes(document.body.dataset.state)")
    if await demo_page.page.evaluate("document.body.dataset.state") == "disconnected":
        await demo_page.press("Continue")
    await demo_page.until_complete()


async def test_the_page_needs_nothing_from_elsewhere(
    open_page: OpenPage, demo: DemoServer
) -> None:
    page = await open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(demo.url + "/")
    await page.get_by_text("a text for tests").wait_for()
    assert [url for url in asked if not url.startswith((demo.url, "data:"))] == []
    assert demo.url + "/chat/stream.js" in asked


async def test_everything_that_can_be_used_has_a_name_and_is_reached_by_keyboard(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    tree = await demo_page.page.locator("body").aria_snapshot()
    for line in tree.splitlines():
        role, _, rest = line.strip().removeprefix("- ").partition(" ")
        if role.rstrip(":") in {"button", "textbox", "switch", "link", "log", "checkbox"}:
            assert rest.startswith('"'), f"without a name: {line}"
    await demo_page.page.get_by_label("Cut the connection").focus()
    await demo_page.page.keyboard.press("Space")
    assert await demo_page.page.get_by_role("switch").is_checked()
