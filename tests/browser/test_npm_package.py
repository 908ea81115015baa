"""The npm package: its files, its types for a strict user, and bundles of it in a browser.

Its dependencies come from npm, or from the folder that `STREAMSTORES_TEST_NPM` names.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import streamstores
from tests.browser.client import POLL_MS, TIMEOUT_MS
from tests.browser.conftest import ROOT, DemoServer, OpenPage
from tests.browser.serve import TEXT
from tests.made_once import made_once
from tests.services.npm import filled, install, tool

PACKAGE = ROOT / "javascript"
MODULE = ROOT / "stores/streamstores/http/chat/stream.js"
SOURCES = Path(__file__).parent / "npm"
EXAMPLES = ROOT / "examples/javascript"
DEPENDENCIES = ["esbuild@0.25", "react@19", "react-dom@19", "svelte@5"]
MODULE_OPTIONS = [
    *(
        "--target",
        "es2022",
        "--module",
        "es2022",
        "--lib",
        "es2023,dom,dom.iterable",
        "--strict",
    )
]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed package, made in a copy of the folders that `npm pack` reads."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(PACKAGE, folder / "javascript")
    shutil.copy(ROOT / "LICENSE", folder)
    types = MODULE.with_suffix(".d.ts")
    target = folder / MODULE.parent.relative_to(ROOT)
    target.mkdir(parents=True)
    for file in MODULE, types:
        shutil.copy(file, target)
    result = run(tool("npm"), "pack", "--json", cwd=folder / "javascript")
    assert result.returncode == 0, result.stderr
    [archive] = (folder / "javascript").glob("*.tgz")
    return archive


@pytest.fixture(scope="session")
def project(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project with the package and its peers installed."""
    return filled(tmp_path_factory, "npm", partial(fill_project, packed))


def fill_project(packed: Path, folder: Path) -> None:
    (folder / "package.json").write_text('{"type": "module"}')
    for source in SOURCES.iterdir():
        shutil.copy(source, folder)
    (folder / "examples").mkdir(exist_ok=True)
    for source in EXAMPLES / "Chat.jsx", EXAMPLES / "Chat.svelte", MODULE:
        shutil.copy(source, folder / "examples")
    install(folder, packed, *DEPENDENCIES)


def test_the_types_are_those_of_the_comments(tmp_path: Path) -> None:
    emit = ("--allowJs", "--declaration", "--emitDeclarationOnly", "--outDir", tmp_path)
    result = run(tool("tsc"), MODULE, *emit, *MODULE_OPTIONS, cwd=ROOT)
    assert result.returncode == 0, result.stdout
    generated = (tmp_path / "stream.d.ts").read_text()
    assert generated == MODULE.with_suffix(".d.ts").read_text(), "see javascript/README.md"


def test_the_package_has_the_version_of_the_project() -> None:
    version = json.loads((PACKAGE / "package.json").read_text())["version"]
    assert version == streamstores.__version__


@pytest.mark.long
def test_the_package_has_exactly_its_files(project: Path) -> None:
    installed = project / "node_modules/streamstores"
    files = {path.name for path in installed.iterdir()}
    modules = {"stream.js", "ai-sdk.js", "react.js", "svelte.js"}
    types = {"stream.d.ts", "ai-sdk.d.ts", "react.d.ts", "svelte.d.ts"}
    assert files == modules | types | {"package.json", "README.md", "LICENSE"}
    assert (installed / "stream.js").read_text() == MODULE.read_text()


@pytest.mark.long
@pytest.mark.parametrize("resolution", ["bundler", "node16"])
def test_strict_typescript_accepts_a_users_code_and_refuses_its_mistakes(
    project: Path, resolution: str
) -> None:
    module = "es2022" if resolution == "bundler" else "node16"
    result = run(
        tool("tsc"),
        *("--noEmit", "--strict", "--exactOptionalPropertyTypes"),
        *("--target", "es2022", "--lib", "es2023,dom,dom.iterable"),
        *("--module", module, "--moduleResolution", resolution),
        "typed.ts",
        cwd=project,
    )
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="session")
def bundles(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        result = run(tool("node"), "build.mjs", cwd=project)
        assert result.returncode == 0, result.stderr
        shutil.copytree(project / "built", folder, dirs_exist_ok=True)

    return made_once(tmp_path_factory, "bundles", build)


async def open_app(open_page: OpenPage, context: Any, url: str, script: Path) -> Any:
    """A page of the demo server's origin with a bundle in it."""

    async def answer(route: Any) -> None:
        is_script = route.request.url.endswith(".js")
        html = '<div id="app"></div><script type="module" src="/bundle/app.js"></script>'
        body = script.read_text() if is_script else html
        kind = "text/javascript" if is_script else "text/html"
        await route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")

    await context.route(f"{url}/bundle/**", answer)
    return await open_page(f"{url}/bundle/", context)


async def until_complete(page: Any) -> None:
    await page.get_by_role("status").filter(has_text="done").wait_for()
    await page.wait_for_function(
        "(text) => document.querySelector('output').textContent === text",
        arg=TEXT,
        polling=POLL_MS,
        timeout=TIMEOUT_MS,
    )


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("app", ["react_app", "svelte_app"])
async def test_a_bundled_component_reads_an_answer_through_a_reload(
    browser: Any, open_page: OpenPage, demo: DemoServer, bundles: Path, app: str
) -> None:
    context = await browser.new_context()
    page = await open_app(open_page, context, demo.url, bundles / f"{app}.js")
    await page.evaluate("(question) => (window.question = question)", f"ask {app}")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("line 9:").wait_for()
    await page.reload()
    await page.get_by_text("line 9:").wait_for()
    await demo.go(f"ask {app}")
    await until_complete(page)
    await context.close()


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("app", ["react_example", "svelte_example"])
async def test_the_examples_stop_continue_and_survive_a_reload(
    browser: Any, open_page: OpenPage, demo: DemoServer, bundles: Path, app: str
) -> None:
    context = await browser.new_context()
    page = await open_app(open_page, context, demo.url, bundles / f"{app}.js")
    await page.get_by_label("Prompt").fill(f"try {app}")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("line 9:").wait_for()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("status").filter(has_text="stopped").wait_for()
    await page.reload()
    await page.get_by_role("status").filter(has_text="stopped").wait_for()
    await page.get_by_role("button", name="Continue").click()
    await demo.go(f"try {app}")
    await until_complete(page)
    await context.close()
