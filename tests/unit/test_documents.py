"""The documents of the project: their links lead somewhere, and their indexes are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
DECISIONS = ROOT / "docs" / "decisions"


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as Markdown renderers make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{document.name} links to {target}"


def test_the_index_of_decisions_has_each_of_them_once() -> None:
    index = (DECISIONS / "README.md").read_text()
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index)
    assert sorted(listed) == sorted(
        p.name for p in DECISIONS.glob("*.md") if p.stem != "README"
    )


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.(?:py|js))`", text))
    existing = {path.name for path in (ROOT / "stores").rglob("*.*")}
    assert len(named) > 10
    assert named <= existing
