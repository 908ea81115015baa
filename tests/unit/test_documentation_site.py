"""How `.ci/documentation.py` makes a site of the documents. `.ci/checks` builds it strictly."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    "docs/README.md": "index.md",
    "docs/chat.md": "chat.md",
    "docs/stores/README.md": "stores/index.md",
    "docs/stores/redis.md": "stores/redis.md",
    "CONTRIBUTING.md": "project/contributing.md",
}


@pytest.fixture(scope="module")
def documentation() -> ModuleType:
    path = ROOT / ".ci" / "documentation.py"
    spec = importlib.util.spec_from_file_location("documentation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "written", "in_the_site"),
    [
        ("docs/chat.md", "stores/redis.md", "stores/redis.md"),
        ("docs/chat.md", "stores/README.md#cost", "stores/index.md#cost"),
        ("docs/chat.md", "stores", "stores/index.md"),
        ("docs/stores/redis.md", "README.md", "index.md"),
        ("docs/stores/redis.md", "../chat.md", "../chat.md"),
        ("docs/chat.md", "../CONTRIBUTING.md#tests", "project/contributing.md#tests"),
        ("CONTRIBUTING.md", "docs/chat.md", "../chat.md"),
        ("docs/chat.md", "#models", "#models"),
        ("docs/chat.md", "https://example.org/x.md", "https://example.org/x.md"),
    ],
)
def test_a_link_leads_to_the_page_of_its_document(
    documentation: ModuleType, source: str, written: str, in_the_site: str
) -> None:
    changed = documentation.with_links_of_the_site(f"[x]({written})", source, PAGES)
    assert changed == f"[x]({in_the_site})"


@pytest.mark.parametrize(
    ("written", "kind"),
    [("../pyproject.toml", "blob/main/pyproject.toml"), ("../examples", "tree/main/examples")],
)
def test_a_link_to_another_file_leads_to_the_repository(
    documentation: ModuleType, written: str, kind: str
) -> None:
    changed = documentation.with_links_of_the_site(f"[x]({written})", "docs/chat.md", PAGES)
    assert changed == f"[x]({documentation.repository()}/{kind})"


def test_the_name_of_a_file_becomes_the_title_of_its_page(documentation: ModuleType) -> None:
    text = "[chat.md](../chat.md#models), [stores/redis.md](redis.md), [x.toml](../chat.md)"
    changed = documentation.with_links_of_the_site(text, "docs/stores/README.md", PAGES)
    assert changed == (
        "[The chat handler](../chat.md#models), [Redis](redis.md), [x.toml](../chat.md)"
    )


def test_links_in_code_stay_as_they_are(documentation: ModuleType) -> None:
    text = "```python\n# [x](stores)\n```\n\n[x](stores)\n"
    changed = documentation.with_links_of_the_site(text, "docs/chat.md", PAGES)
    assert changed == "```python\n# [x](stores)\n```\n\n[x](stores/index.md)\n"


def test_a_page_that_no_entry_names_is_found(documentation: ModuleType) -> None:
    nav = '{ "A" = ["chat.md", "*.md"] }, { "B" = ["tele*.md", "stores/*.md", "no*.md"] }'
    pages = ["chat.md", "new.md", "telemetry.md", "stores/redis.md", "project/x.md"]
    assert documentation.with_matching_pages(nav, pages) == (
        '{ "A" = ["chat.md", "new.md", ] }, { "B" = ["telemetry.md", "stores/redis.md", ] }'
    )


def test_every_page_is_in_the_navigation_once(documentation: ModuleType) -> None:
    pages = [page for page in documentation.staged_pages().values() if page.endswith(".md")]
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    filled = documentation.with_matching_pages(configuration, pages)
    named = re.findall(r'"([\w/-]+\.md)"', filled)
    assert sorted(named) == sorted(pages)


@pytest.mark.parametrize(
    ("html", "asks"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', True),
        ('<link href="https://fonts.example" rel="preconnect">', True),
        ('<img alt="" src="http://example.org/x.png">', True),
        ("@import url(https://fonts.example/a.css);", True),
        ('<a href="https://example.org">there</a>', False),
        ('<script src="assets/x.js"></script><link rel="stylesheet" href="x.css">', False),
    ],
)
def test_pages_that_would_ask_other_servers_are_found(
    documentation: ModuleType, html: str, asks: bool, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    assert bool(list(documentation.pages_that_ask_other_servers(tmp_path))) is asks
