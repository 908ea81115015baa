#!/usr/bin/env python3
"""Build the documentation site, strictly: a link that leads nowhere is a failure.

The sources are Markdown files that also work when they are read in the repository. They are
copied into a folder from which the generator makes the site:

- `README.md` becomes the index of its folder;
- a few documents from outside `docs` become pages (`ELSEWHERE`);
- links to other files of the repository become links to the repository on the web;
- a link whose text is the name of a document gets the document's title for it;
- in the navigation of `zensical.toml`, a name with a `*` becomes the pages that it matches and
  that no other entry names, so a new guide is found without a change of that file.

    .ci/documentation.py                 build/site, in seconds
    .ci/documentation.py --out FOLDER    another folder

It needs `zensical` and `mkdocstrings-python`, which the extra `dev` brings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "benchmarks/results/latest.md": "performance/figures.md",
    "benchmarks/results/chats.md": "performance/chats.md",
    "javascript/README.md": "project/javascript-package.md",
}
"""Documents that become pages, by their paths in the repository."""
PICTURES = "benchmarks/results/*.svg"

FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ \t]*$", re.M | re.S)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=[)\s])")
NAMED_LINK = re.compile(r"\[[\w./-]+\.md\](?=\(([^)#\s]+\.md)[)#])")
NAV_ENTRY = re.compile(r'"([\w/*-]+\.md)"')
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b[^>]*?\brel=[\"']?(?:stylesheet|preconnect|icon|preload)\b[^>]*?\bhref=[\"']?(?:https?:)?//"
    r"|<link\b[^>]*?\bhref=[\"']?(?:https?:)?//[^>]*?\brel=[\"']?(?:stylesheet|preconnect|icon|preload)\b"
    r"|@import\s+[\"']?(?:url\()?[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//"
)
"""What makes a browser ask another server by itself."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out: Path = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage(folder)
        code = generate(folder)
        if code == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(folder / "site", out)
    if code:
        return code
    asking = sorted(pages_that_ask_other_servers(out))
    for page in asking:
        print(f"{page}: asks another server", file=sys.stderr)
    print(f"{len(list(out.rglob('*.html')))} pages in {out}")
    return 1 if asking else 0


def stage(folder: Path) -> None:
    """Lay out the sources of the site: `zensical.toml`, `docs`, and the package to document."""
    pages = staged_pages()
    for source, page in pages.items():
        target = folder / "docs" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            target.write_text(with_links_of_the_site(text, source, pages), encoding="utf-8")
        else:
            shutil.copy(ROOT / source, target)
    (folder / "stores").symlink_to(ROOT / "stores")
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    names = [page for page in pages.values() if page.endswith(".md")]
    (folder / "zensical.toml").write_text(
        with_matching_pages(configuration, names), encoding="utf-8"
    )


def staged_pages() -> dict[str, str]:
    """The path in the site's sources of each file that belongs there, by its path here."""
    pages = {}
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT / "docs").as_posix()
            pages[f"docs/{name}"] = re.sub(r"(^|/)README\.md$", r"\1index.md", name)
    for path in sorted(ROOT.glob(PICTURES)):
        pages[path.relative_to(ROOT).as_posix()] = f"performance/{path.name}"
    return pages | ELSEWHERE


def with_links_of_the_site(text: str, source: str, pages: dict[str, str]) -> str:
    """A document whose links, outside its code, lead to pages of the site or to the web."""
    parts, last = [], 0
    for fence in FENCE.finditer(text):
        parts.append(_links_changed(text[last : fence.start()], source, pages))
        parts.append(fence.group())
        last = fence.end()
    return "".join([*parts, _links_changed(text[last:], source, pages)])


def _links_changed(text: str, source: str, pages: dict[str, str]) -> str:
    text = NAMED_LINK.sub(lambda match: f"[{_title(source, match[1])}]", text)
    return LINK.sub(lambda match: _target_in_the_site(match.group(), source, pages), text)


def _title(source: str, path: str) -> str:
    """The first heading of the document to which `source` links."""
    text = (ROOT / source).parent.joinpath(path).read_text(encoding="utf-8")
    heading = re.search(r"^# (.+)$", text, re.M)
    return heading[1] if heading else path


def _target_in_the_site(target: str, source: str, pages: dict[str, str]) -> str:
    path, hash_sign, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return target
    found = os.path.normpath(Path(source).parent / path)
    if (ROOT / found / "README.md").is_file() and f"{found}/README.md" in pages:
        found = f"{found}/README.md"
    if found in pages:
        here = Path(pages[source]).parent
        return os.path.relpath(pages[found], here) + hash_sign + anchor
    kind = "tree" if (ROOT / found).is_dir() else "blob"
    return f"{repository()}/{kind}/main/{found}" + hash_sign + anchor


def repository() -> str:
    """The address of the repository, from pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Homepage = "([^"]+)"$', project, re.M)
    assert found is not None
    return found[1]


def with_matching_pages(configuration: str, pages: list[str]) -> str:
    """The configuration with each entry that has a `*` replaced by the pages that it matches.

    A pattern of a folder takes its pages before `*.md` takes those that no entry names.
    """
    free = set(pages) - set(NAV_ENTRY.findall(configuration))
    patterns = [entry for entry in NAV_ENTRY.findall(configuration) if "*" in entry]
    for pattern in sorted(patterns, key=len, reverse=True):
        matching = sorted(page for page in free if _matches(page, pattern))
        free -= set(matching)
        replacement = "".join(f'"{page}", ' for page in matching)
        configuration = re.sub(f'"{re.escape(pattern)}",? ?', replacement, configuration)
    return configuration


def _matches(page: str, pattern: str) -> bool:
    return page.count("/") == pattern.count("/") and fnmatchcase(page, pattern)


def generate(folder: Path) -> int:
    """Run the generator, and return its exit code."""
    command = [_tool(), "build", "--strict", "--config-file", "zensical.toml"]
    return subprocess.run(command, cwd=folder, check=False).returncode


def _tool() -> str:
    """`zensical` beside this interpreter, or on PATH."""
    beside = Path(sys.executable).with_name("zensical")
    return str(beside) if beside.exists() else "zensical"


def pages_that_ask_other_servers(site: Path) -> Iterator[Path]:
    for path in site.rglob("*"):
        if path.suffix in {".html", ".css"} and LOADED.search(path.read_text(encoding="utf-8")):
            yield path


if __name__ == "__main__":
    sys.exit(main())
