"""The demo page as a user sees it; its screenshots go to artifacts/browser/."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores.http import Event
from streamstores.http.chat.records import encode
from tests.browser.client import POLL_MS, TIMEOUT_MS
from tests.browser.conftest import ARTIFACTS, DemoServer, OpenPage
from tests.browser.serve import FIRST_PART_BYTES, PARTS, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="session")


class DemoPage:
    """What a user sees of the page, and does with it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    async def ask(self, prompt: str) -> None:
        """Send a prompt, and wait for the first part of its answer."""
        await self.page.get_by_label("Prompt").fill(prompt)
        await self.page.keyboard.press("Enter")
        await self.until_first_part(prompt)

    async def until_first_part(self, prompt: str) -> None:
        await self.until_offset(question_bytes(prompt) + FIRST_PART_BYTES)

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

    async def until_complete(self, prompt: str) -> None:
        await self.until_status("done")
        assert await self.answer() == TEXT
        assert await self.question() == prompt
        size = question_bytes(prompt) + len(TEXT.encode())
        await self.page.get_by_text(f"All {size:,} bytes are here.").wait_for()

    async def answers(self) -> list[str]:
        answers: list[str] = await self.page.locator(".answer").all_text_contents()
        return answers

    async def answer(self) -> str:
        return (await self.answers())[-1]

    async def question(self) -> str:
        questions: list[str] = await self.page.locator(".question").all_inner_texts()
        return questions[-1]

    async def distance_from_end(self) -> int:
        """How many pixels of the conversation are below its visible part."""
        distance: int = await self.page.locator("#scroll").evaluate(
            "(node) => Math.round(node.scrollHeight - node.clientHeight - node.scrollTop)"
        )
        return distance

    async def until_at_the_end(self) -> None:
        """The page scrolls in the frame after the one in which text has come."""
        node = "document.getElementById('scroll')"
        await self.until(f"{node}.scrollHeight - {node}.clientHeight - {node}.scrollTop < 8")

    async def history(self) -> list[str]:
        """The transitions in the order of time."""
        names: list[str] = await self.page.locator("#history b").all_text_contents()
        return names[::-1]

    async def usable_buttons(self) -> set[str]:
        buttons = self.page.locator("form button:enabled:visible")
        return {text.strip() for text in await buttons.all_inner_texts()}

    async def photograph(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def question_bytes(prompt: str) -> int:
    """The stored size of the event that carries a question."""
    [record] = encode(Event("question", prompt), record_bytes=1_000)
    return len(record)


async def open_demo(open_page: OpenPage, url: str, **options: Any) -> DemoPage:
    page = DemoPage(await open_page(url + "/", **options))
    await page.page.get_by_text("a text for tests").wait_for()
    return page


LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
OTHER_LOOKS = (pytest.param(each, marks=pytest.mark.long) for each in LOOKS if each != "light")
SOME_LOOKS = ["light", *OTHER_LOOKS]


@pytest.mark.parametrize("look", SOME_LOOKS)
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
    await demo_page.until_complete(prompt)
    await demo_page.photograph(f"{look}-done")
    assert await demo_page.history() == ["streaming", "done"]
    widths = await demo_page.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] == widths[1], "the page scrolls sideways"


@pytest.mark.parametrize("look", SOME_LOOKS)
async def test_stop_is_in_view_while_an_answer_is_written(
    open_page: OpenPage, demo: DemoServer, look: str
) -> None:
    demo_page = await open_demo(open_page, demo.url, **LOOKS[look])
    prompt = f"A long one in {look}"
    await demo_page.ask(prompt)
    await demo.go(prompt, parts=6)
    await demo_page.until_offset(question_bytes(prompt) + len("".join(PARTS[:7]).encode()))
    box = await demo_page.page.get_by_role("button", name="Stop").bounding_box()
    height = await demo_page.page.evaluate("innerHeight")
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= height


async def test_the_switch_cuts_the_line_and_the_page_goes_on_by_itself(
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
    await demo_page.page.get_by_text("Looking for it every few seconds").wait_for()
    await demo_page.photograph("disconnected")
    await demo_page.switch_line()
    await demo.go("cut me")
    await demo_page.until_complete("cut me")
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
    await demo_page.until_complete("stop me")


async def test_a_chat_keeps_its_answers_and_survives_a_reload(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("the first")
    await demo.go("the first")
    await demo_page.until_complete("the first")
    await demo_page.ask("the second")
    assert await demo_page.answers() == [TEXT, PARTS[0]]
    await demo_page.page.reload()
    await demo_page.until_first_part("the second")
    await demo.go("the second")
    await demo_page.until_complete("the second")
    assert await demo_page.answers() == [TEXT, TEXT]
    questions = await demo_page.page.locator(".question").all_inner_texts()
    assert questions == ["the first", "the second"]
    await demo_page.photograph("chat")
    await demo_page.press("New chat")
    assert await demo_page.answers() == []
    await demo_page.page.reload()
    await demo_page.page.get_by_text("Not a byte is lost").wait_for()


async def test_the_model_is_given_the_turns_before(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("remember me")
    await demo.go("remember me")
    await demo_page.until_complete("remember me")
    async with demo_page.page.expect_request("**/chat/stream") as sending:
        await demo_page.ask("what did I say?")
    body = (await sending.value).post_data_json
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
    assert [message["content"] for message in body["messages"]] == ["remember me", TEXT]


async def test_regenerate_replaces_the_last_answer_by_a_new_stream(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.ask("again")
    await demo.go("again", parts=15)  # of two answers
    await demo_page.until_complete("again")
    first = await demo_page.page.locator("#stream-id").inner_text()
    await demo_page.press("Regenerate")
    await demo_page.until("document.getElementById('stream-id').textContent !== it", first)
    await demo_page.until_complete("again")
    assert await demo_page.answers() == [TEXT]


async def test_a_shared_tab_shows_the_question_and_a_continue_in_it_reaches_the_first(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_demo(open_page, demo.url)
    await first.ask("share me")
    async with first.page.context.expect_page() as opening:
        await first.page.get_by_role("link", name="Open in a second tab").click()
    second = DemoPage(await opening.value)
    await second.until_first_part("share me")
    assert await second.question() == "share me"
    await second.press("Stop")
    for page in first, second:
        await page.until_status("stopped")
    await second.press("Continue")
    await demo.go("share me")
    for page in second, first:
        await page.until_complete("share me")


async def test_a_page_whose_server_was_killed_goes_on_when_it_is_started_again(
    open_page: OpenPage, mortal_demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, mortal_demo.url)
    await demo_page.ask("survive")
    await mortal_demo.kill()
    await demo_page.until_status("disconnected")
    await mortal_demo.start()
    await demo_page.until_complete("survive")


async def test_fast_text_stays_in_view_until_the_reader_scrolls_up(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.page.get_by_label("Prompt").fill("fast, please")
    await demo_page.page.keyboard.press("Enter")
    await demo_page.until("document.querySelector('.answer')?.textContent.includes('line 99 ')")
    await demo_page.until_at_the_end()
    await demo_page.page.locator("#scroll").hover()
    await demo_page.page.mouse.wheel(0, -600)
    await demo_page.until_status("done")
    assert await demo_page.distance_from_end() > 600


async def test_the_page_never_shows_an_offset_beyond_the_tail(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    await demo_page.page.evaluate(
        """() => {
          const [offset, tail] = ["offset", "tail"].map((id) => document.getElementById(id));
          const valueOf = ({ textContent }) => Number(textContent.replace(/[^0-9]/g, ""));
          window.differences = [];
          const compare = () => window.differences.push(valueOf(tail) - valueOf(offset));
          new MutationObserver(compare).observe(offset, { childList: true });
        }"""
    )
    await demo_page.page.get_by_label("Prompt").fill("fast again")
    await demo_page.page.keyboard.press("Enter")
    await demo_page.until_status("done")
    differences = await demo_page.page.evaluate("window.differences")
    assert len(differences) > 10
    assert min(differences) >= 0


async def test_the_page_says_that_the_model_is_being_loaded(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    loading = {"loading": True}
    await demo_page.page.route("**/info", lambda route: route.fulfill(json=loading))
    held = asyncio.Event()

    async def hold(route: Any) -> None:
        await held.wait()
        await route.abort()

    await demo_page.page.route("**/chat/stream", hold)
    await demo_page.page.get_by_label("Prompt").fill("wait for it")
    await demo_page.page.keyboard.press("Enter")
    await demo_page.page.get_by_text("The model is being loaded").wait_for()
    held.set()


async def test_the_monitor_is_found_without_its_slash(
    open_page: OpenPage, demo: DemoServer
) -> None:
    page = await open_page(demo.url + "/monitor")
    assert page.url == demo.url + "/monitor/"


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


async def test_the_focus_moves_on_from_a_button_that_goes_away(
    open_page: OpenPage, demo: DemoServer
) -> None:
    demo_page = await open_demo(open_page, demo.url)
    keyboard = demo_page.page.keyboard
    await demo_page.page.get_by_label("Prompt").fill("by keyboard")
    await keyboard.press("Tab")
    await keyboard.press("Enter")  # on Send
    await demo_page.until_first_part("by keyboard")
    await keyboard.press("Enter")  # on Stop
    await demo_page.until_status("stopped")
    await keyboard.press("Enter")  # on Continue
    await demo.go("by keyboard")
    await demo_page.until_complete("by keyboard")
