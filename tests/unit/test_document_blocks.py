"""Every block of code in the documents is executed, or checked, or says why it is not.

Sybil executes the Python blocks (conftest.py). Of the others, a block is

- executed by the test that `EXECUTED` names;
- an installation of extras, which `tests/release` installs one by one;
- commands of `streamstores`, whose names and options are checked here;
- a change (`diff`) to a program, if the next block is such a program, which is executed;
- data, which is parsed here; or
- marked in the line above it: `<!-- not executed: the reason -->`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

ROOT = Path(__file__).parents[2]
GUIDES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
BLOCK = re.compile(
    r"(?:^<!-- *(?P<mark>[^\n]*?) *-->\n\s*)?^ *```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$",
    re.M | re.S,
)

EXECUTED = {
    ("README.md", "html"): "tests/browser/test_readme.py",
    ("docs/tutorial.md", "sh"): "tests/http/test_tutorial.py",
    ("docs/tutorial.md", "html"): "tests/http/test_tutorial.py",
    ("docs/javascript.md", "html"): "tests/browser/test_examples.py",
    ("docs/durable-streams.md", "console"): "tests/durable/test_guide.py",
}
"""The test that executes all blocks of a language in a document."""
OF_A_TEST = {
    "docs/frameworks.md": "tests/http/test_frameworks.py",
    "docs/telemetry.md": "tests/telemetry/test_guide.py",
    "docs/tutorial.md": "tests/http/test_tutorial.py",
}
"""Python that Sybil leaves to a test, which executes it in processes."""


class Block(NamedTuple):
    path: str
    language: str
    code: str
    mark: str
    line: int
    next_language: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in sorted(GUIDES):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT).as_posix()
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("language")) + 1
            yield Block(name, found["language"], found["code"], found["mark"] or "", line)


def with_next(found: list[Block]) -> list[Block]:
    following = [*found[1:], None]
    return [
        block._replace(next_language=after.language)
        if after is not None and after.path == block.path
        else block
        for block, after in zip(found, following, strict=True)
    ]


ALL = with_next(list(blocks()))


def test_the_python_blocks_are_where_sybil_looks() -> None:
    from conftest import PATTERNS

    for path in {block.path for block in ALL if block.language == "python"}:
        looked_at = any(Path(path).match(pattern) for pattern in PATTERNS)
        assert looked_at or path in OF_A_TEST, path


@pytest.mark.parametrize("path", sorted({*OF_A_TEST.values(), *EXECUTED.values()}))
def test_the_tests_that_execute_documents_read_them(path: str) -> None:
    names = {name for name, test in OF_A_TEST.items() if test == path}
    names |= {name for (name, _), test in EXECUTED.items() if test == path}
    text = (ROOT / path).read_text(encoding="utf-8")
    for name in names:
        assert f'"{Path(name).name}"' in text or f'"{name}"' in text


@pytest.mark.parametrize(
    "block", [block for block in ALL if "skip: next" in block.mark], ids=str
)
def test_a_python_block_that_is_skipped_says_why(block: Block) -> None:
    assert re.search(r'skip: next[^"]*"[^"]{10,}"', block.mark), (
        'write <!-- skip: next "the reason" -->'
    )


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language != "python"], ids=str
)
def test_a_block_is_executed_or_checked_or_says_why_not(block: Block) -> None:
    if (block.path, block.language) in EXECUTED:
        return
    if re.fullmatch(r"not executed: .{10,}", block.mark):
        return
    if block.language in {"sh", "bash", "console"}:
        for command in commands(block):
            check_command(command)
    elif block.language == "diff" and block.next_language == "python":
        return
    elif block.language == "json":
        json.loads(block.code)
    else:
        pytest.fail("it needs a test, or <!-- not executed: the reason --> above it")


def commands(block: Block) -> list[str]:
    """The commands of a block, without comments and without what they print."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    lines = [re.sub(r"(^|\s)#.*$", "", line) for line in lines]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|\||\||;", line)]
    return [part for part in parts if part]


def check_command(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    words = [word for word in words if not re.match(r"^\d?[<>]", word)]
    program, *arguments = words or ["true"]
    program = program.removeprefix(".venv/bin/")
    if program == "pip" and arguments[:1] == ["install"]:
        check_extras(command)
    elif program == "streamstores":
        check_streamstores(arguments)
    elif program == "python" and arguments[:1] == ["-m"]:
        assert find_spec(arguments[1]) is not None
    else:
        pytest.fail(f"no test executes {command!r}; say why: <!-- not executed: … -->")


def check_extras(command: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for names in re.findall(r"(?:streamstores|\.)\[([^]]*)\]", command):
        for name in names.split(","):
            assert re.search(rf"^{re.escape(name)} = \[", project, re.M), name


def check_streamstores(arguments: list[str]) -> None:
    """The subcommand exists, and so do its options."""
    from streamstores.cli import build_app

    group = typer.main.get_command(build_app())
    name = next(word for word in arguments if not word.startswith("-"))
    subcommands = getattr(group, "commands", {})
    assert name in subcommands, f"no command {name}"
    known = {"--help"} | {
        option for parameter in subcommands[name].params for option in parameter.opts
    }
    known |= {
        option for parameter in subcommands[name].params for option in parameter.secondary_opts
    }
    used = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
    assert used <= known, used - known


def test_the_checks_of_commands_can_fail() -> None:
    for wrong in (
        "pip install 'streamstores[oracle]'",
        "streamstores fly memory://",
        "streamstores check --sideways memory://",
        "curl localhost",
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check_command(wrong)
    check_command("streamstores check --clause 4 memory:// > report.txt")
