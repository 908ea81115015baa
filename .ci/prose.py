#!/usr/bin/env python3
"""Count the habits of prose that the writing rule of CONTRIBUTING.md asks authors to avoid.

The rule asks for plain English: "if" for conditions, a noun instead of "one", a named subject
instead of "whoever". Each has a heuristic here, counted per 1,000 words of docstrings. The
script also lists long functions without a docstring and the share of comment lines, to which
the package's SQL and Lua count as well as its Python.

    .ci/prose.py                      the figures of the package
    .ci/prose.py --files              the same for every file, the longest debts first
    .ci/prose.py --quote PATH...      every sentence that was counted, with its line
    .ci/prose.py --check              exit with 1 if a figure is over its bound

It needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "stores" / "streamstores"
LONG_FUNCTION_LINES = 12
"""Of the body. `__init__` is documented by its class."""

#: What each habit may reach, per 1,000 words of docstrings.
BOUNDS = {"where": 1.0, "one": 2.0, "who": 0.5}
MIN_COMMENT_PERCENT = 3.0

# "where" is right after a place, or after a verb or preposition that asks for a place, and
# before "to" or "from". Every other "where" is taken for "if" or "when".
_PLACES = (
    "place|places|point|position|offset|file|folder|directory|path|line|page|spot|byte|end|"
    "start|row|column|segment|record|code|document|docs|table|server|machine|process|layer|module"
)
_ASKS_FOR_A_PLACE = (
    "from|to|of|about|on|is|was|are|know|knows|knew|say|says|said|tell|tells|told|show|shows|"
    "see|learn|learns|find|finds|remember|remembers|exactly|just|decide|decides|choose|chooses|"
    "matter|matters|anywhere|everywhere|somewhere|nowhere"
)
WHERE = re.compile(
    rf"(?P<before>\b(?:{_PLACES}|{_ASKS_FOR_A_PLACE})\s+)?\bwhere\b(?!\s+(?:to|from)\b)", re.I
)

# "one" is a numeral before a noun; it stands for a noun after "the", "this" or an adjective
# with an article, and before punctuation, a verb, a preposition or a relative pronoun.
_IDIOMS = (
    r"one of|one by one|one or|one and the same|one at a time|one another|one after|one to"
)
_STANDS_FOR_A_NOUN = (
    "is|was|are|has|had|does|did|can|may|will|would|must|that|which|who|whose|where|when|if|in|"
    "on|at|for|with|without|by|from|and|but|as|than|before|until|it|he|the|a|an|this|they|"
    "there|here|under|over|behind|above|below|whose|into|so|then|not|only|has|gets|takes"
)
_NO_ADJECTIVE = (
    "of|in|on|at|to|by|for|from|with|as|is|was|are|has|had|have|and|or|that|which|than|but|if|"
    "only|exactly|least|most|not|takes|sees|costs|gets|makes|between|under|over|after|before"
)
ONE = re.compile(
    rf"\b(?:(?:the|an?|its|their|this|that|each|every|any|no|same|other|another|own)\s+)"
    rf"(?:(?!(?:{_NO_ADJECTIVE})\b)[\w-]+\s+){{0,2}}ones?\b(?!\s+(?:of|by one)\b)"
    rf"(?<!\bthe one)(?<!\bno one)"
    rf"|\b(?!(?:{_IDIOMS})\b)one(?=[.,;:)?!]|$|\s+(?:{_STANDS_FOR_A_NOUN})\b)"
    r"|\bones\b|\bone's\b",
    re.I,
)
WHO = re.compile(r"\b(?:who|whom|whoever|nobody|somebody|anybody)\b", re.I)
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
SUFFIXES = frozenset({".py", ".sql", ".lua"})
SQL_COMMENT = re.compile(r"(?:^|\s)--(?:\s|$)")
"""Of Lua too."""
CODE = re.compile(r"``[^`]*``|`[^`]*`")


@dataclass
class Figures:
    """What was counted, in one file or in all of them."""

    words: int = 0
    lines: int = 0
    comments: int = 0
    found: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: {name: [] for name in BOUNDS}
    )
    undocumented: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.words += other.words
        self.lines += other.lines
        self.comments += other.comments
        for name, places in other.found.items():
            self.found[name] += places
        self.undocumented += other.undocumented

    def rate(self, name: str) -> float:
        """How often the habit occurs in 1,000 words."""
        return 1000 * len(self.found[name]) / max(self.words, 1)

    @property
    def comment_percent(self) -> float:
        return 100 * self.comments / max(self.lines, 1)

    @property
    def debts(self) -> int:
        return sum(len(places) for places in self.found.values()) + len(self.undocumented)


def main() -> int:
    """Print what the arguments ask for; 1 if `--check` finds a bound that is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, help="files or folders; the package if none"
    )
    parser.add_argument("--files", action="store_true", help="a line for each file")
    parser.add_argument("--quote", action="store_true", help="every place that was counted")
    parser.add_argument(
        "--check", action="store_true", help="fail if a figure is over its bound"
    )
    arguments = parser.parse_args()
    by_file = {path: measure(path) for path in source_files(arguments.paths or [PACKAGE])}
    total = Figures()
    for figures in by_file.values():
        total.add(figures)
    if arguments.quote:
        print_quotes(by_file)
    if arguments.files:
        print_table(by_file)
    print_total(total)
    return 1 if arguments.check and print_failures(total) else 0


def source_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
        else:
            yield path


def measure(path: Path) -> Figures:
    """Count one file."""
    source = path.read_text()
    if path.suffix != ".py":
        comments = sum(SQL_COMMENT.search(line) is not None for line in source.splitlines())
        return Figures(lines=source.count("\n"), comments=comments)
    figures = Figures(lines=source.count("\n"), comments=comment_lines(source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_long = (node.end_lineno or 0) - node.body[0].lineno >= LONG_FUNCTION_LINES - 1
            if is_long and node.name != "__init__" and ast.get_docstring(node) is None:
                figures.undocumented.append((node.lineno, node.name))
    for line, text in docstrings(source):
        count_prose(figures, line, text)
    return figures


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The string expressions of a module: docstrings, and the notes under an attribute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


def count_prose(figures: Figures, line: int, text: str) -> None:
    """Count the words and habits of a docstring that begins on `line`, without its code."""
    prose = CODE.sub(lambda match: re.sub(r"\S", "`", match.group()), text)
    figures.words += len(WORD.findall(prose))
    for name, pattern in (("where", WHERE), ("one", ONE), ("who", WHO)):
        for match in pattern.finditer(prose):
            if name == "where" and match.group("before"):
                continue
            number = line + prose[: match.start()].count("\n")
            begin, end = max(match.start() - 40, 0), match.end() + 40
            figures.found[name].append((number, " ".join(text[begin:end].split())))


def comment_lines(source: str) -> int:
    """How many lines hold a comment, apart from those that speak to tools."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    to_tools = re.compile(r"#\s*(?:noqa|type:|pyright:|pragma|ruff:|!)")
    return sum(
        token.type == tokenize.COMMENT and not to_tools.match(token.string) for token in tokens
    )


def print_quotes(by_file: dict[Path, Figures]) -> None:
    for path, figures in by_file.items():
        for name, places in figures.found.items():
            for line, text in places:
                print(f"{shown(path)}:{line}: {name}: {text}")
        for line, function in figures.undocumented:
            print(f"{shown(path)}:{line}: no docstring: {function}")


def print_table(by_file: dict[Path, Figures]) -> None:
    print(f"{'words':>6} {'where':>5} {'one':>5} {'who':>5} {'undoc':>5} {'comm%':>5}  file")
    for path, figures in sorted(by_file.items(), key=lambda item: -item[1].debts):
        counts = " ".join(f"{len(places):5}" for places in figures.found.values())
        print(
            f"{figures.words:6} {counts} {len(figures.undocumented):5} "
            f"{figures.comment_percent:5.1f}  {shown(path)}"
        )


def print_total(total: Figures) -> None:
    print(f"{total.words} words of docstrings, {total.lines} lines")
    for name, bound in BOUNDS.items():
        print(f"  {name}: {total.rate(name):.1f} in 1,000 words (at most {bound})")
    print(
        f"  functions of {LONG_FUNCTION_LINES} lines or more without a docstring: "
        f"{len(total.undocumented)} (none)"
    )
    print(f"  comment lines: {total.comment_percent:.1f} % (at least {MIN_COMMENT_PERCENT})")


def print_failures(total: Figures) -> bool:
    """Print each bound that is not kept; whether there was one."""
    failures = [
        f"too many '{name}'" for name, bound in BOUNDS.items() if total.rate(name) > bound
    ]
    if total.undocumented:
        failures.append("long functions without a docstring")
    if total.comment_percent < MIN_COMMENT_PERCENT:
        failures.append("too few comments")
    for failure in failures:
        print(f"prose: {failure}; see --files and --quote", file=sys.stderr)
    return bool(failures)


def shown(path: Path) -> Path:
    """The path as short as it can be."""
    root = PACKAGE.parent.parent
    return path.relative_to(root) if path.is_relative_to(root) else path


if __name__ == "__main__":
    sys.exit(main())
