"""The pages by the rules of axe: contrast, names, roles, in every state and both schemes.

axe-core comes from npm, or from the folder that `STREAMSTORES_TEST_AXE` names.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import ARTIFACTS, DemoServer, OpenPage
from tests.browser.test_monitor_page import LOOKS, Busy, busy, open_dialog, until
from tests.services.npm import installed

__all__ = ["busy"]  # a fixture

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

VERSION = "4.10.3"
STATES = ["idle", "streaming", "reconnecting", "stopped", "disconnected", "done", "error"]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    folder = installed(tmp_path_factory, "axe", f"axe-core@{VERSION}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_demo_page_keeps_the_rules_of_axe(
    open_page: OpenPage, demo: DemoServer, axe: str, scheme: str
) -> None:
    page = await open_page(demo.url, color_scheme=scheme, reduced_motion="reduce")
    await page.get_by_label("Prompt").fill(f"in {scheme}")
    await page.keyboard.press("Enter")
    await page.get_by_text("line 9:").wait_for()
    await page.evaluate(axe)
    await page.evaluate(
        "(document.getElementById('notice').hidden = false,"
        " document.getElementById('notice').textContent = 'What the page waits for')"
    )
    for state in STATES:
        await page.evaluate("(state) => (document.body.dataset.state = state)", state)
        assert await violations(page) == [], state


async def violations(page: Any) -> list[Any]:
    result: dict[str, Any] = await page.evaluate("axe.run()")
    return [
        (violation["id"], [(node["target"], node["any"][:1]) for node in violation["nodes"]])
        for violation in result["violations"]
    ]


@pytest.mark.parametrize("look", LOOKS)
async def test_the_monitor_keeps_the_rules_of_axe(
    open_page: OpenPage, busy: Busy, axe: str, look: str
) -> None:
    options = {**LOOKS[look], "reduced_motion": "reduce", "bypass_csp": True}
    page = await open_page(busy.url + "/monitor/", **options)
    await busy.fill()
    await until(page, "document.querySelectorAll('#rows tr').length === 9")
    await page.evaluate(axe)
    assert await violations(page) == [], "live"
    await page.evaluate(
        "document.getElementById('notice').hidden = false;"
        "document.getElementById('notice').textContent = 'What is wrong';"
        "document.getElementById('line').dataset.state = 'away'"
    )
    assert await violations(page) == [], "away"
    await open_dialog(page, "gus/lost-producer")
    await page.screenshot(path=ARTIFACTS / f"monitor-dialog-{look}.png")
    assert await violations(page) == [], "dialog"
