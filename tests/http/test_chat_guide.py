"""The code in docs/chat.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import Chat
from tests.http.serving import serving, text_of

GUIDE = Path(__file__).parents[2] / "docs" / "chat.md"


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the guide's code defines, from top to bottom."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall("```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(code, GUIDE, "exec"), names)
    return names


@pytest.mark.parametrize(("app", "mount"), [("app", ""), ("application", "/ai")])
async def test_the_guides_applications_answer(
    guide: dict[str, Any], app: str, mount: str
) -> None:
    async with serving(guide[app]) as url, httpx.AsyncClient() as client:
        async with Chat(guide["handler"], url + mount, client).start("hello there") as events:
            assert text_of(await events.rest()) == "hello there "


async def test_the_guides_continuing_model_goes_on_exactly(guide: dict[str, Any]) -> None:
    request = guide["StreamRequest"]("", partial="Once upon ")
    assert [piece async for piece in guide["writer"](request)] == ["a ", "time."]
